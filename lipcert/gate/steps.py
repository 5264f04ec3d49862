"""What to do about a rule that is not met: one sentence for each check and status, and the page that says more."""

from __future__ import annotations

from lipcert.terms.version import SITE

VIOLATED, NOT_PROVED = "violated", "not proved"
RUN = "Run the command that the message names again, with --json, and give its report."
STEPS: dict[str, dict[str, str]] = {
    "max_upper": {
        VIOLATED: "The constant itself is above the limit: no method can prove less. Train a smoother network, or raise max_upper.",
        NOT_PROVED: "Only the guarantee is missing: try a tighter method (lipsdp in l2), more --budget, or a region (--box).",
    },
    "max_ratio": {
        VIOLATED: "The interval is wide: add --method lipsdp and sampled, or ask about a region, where brackets close.",
        NOT_PROVED: "Both ends are needed: run lipcert bound without --method, so that an upper and a lower value are known.",
    },
    "min_certified_accuracy": {
        VIOLATED: "Samples are wrong or broken by an attack at eps: look at those listed; only another network helps.",
        NOT_PROVED: "Radii are too small to tell: lipcert radius with both methods (pairs, local) gives larger ones.",
    },
    "min_median_radius": {
        VIOLATED: "Attacks come nearer than the limit: only another network helps, or a smaller min_median_radius.",
        NOT_PROVED: "Radii are too small to tell: lipcert radius with both methods (pairs, local) gives larger ones.",
    },
    "max_regression_percent": {
        VIOLATED: "It is worse than the baseline: lipcert compare BASELINE REPORT says where and by how much.",
        NOT_PROVED: "Give --baseline a report of the same question; allow_other_model = true compares two checkpoints.",
    },
    "require_methods": {
        VIOLATED: "Run again without --method, so that every method is tried.",
        NOT_PROVED: "Run again without --method; lipcert inspect says which methods can treat this model, and why not.",
    },
    "require_parity": {
        VIOLATED: "The model was not read as the original computes: no value of it counts; please report it.",
        NOT_PROVED: "Install onnxruntime, so that an ONNX file is compared with it, and run again.",
    },
    "model_sha256": {
        VIOLATED: "This report is of another file: bound the file that is released, or write its sha256 in the policy.",
        NOT_PROVED: "Write the sha256 of `model.graph` in the policy, which covers weights in other files.",
    },
    "field": {
        VIOLATED: "The number lies outside of min and max: see the report, or change the limits.",
        NOT_PROVED: "The report has no such number with that rigor: check the dotted path against its JSON.",
    },
}  # fmt: skip


def step(check: str, status: str) -> str | None:
    """None where the rule is met."""
    return None if status == "met" else STEPS.get(check, {}).get(status, RUN)


def page(check: str) -> str:
    return f"{SITE}rules/#{check.replace('_', '-')}"


def help_text(check: str) -> str:
    """Plain sentences, for the help of a rule."""
    return " ".join(f"If {status}: {said}" for status, said in STEPS[check].items())


def help_markdown(check: str) -> str:
    rows = [f"- **{status}**: {said}" for status, said in STEPS[check].items()]
    return "\n".join([*rows, "", f"[{check}]({page(check)})"])
