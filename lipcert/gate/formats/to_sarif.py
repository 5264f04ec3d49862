"""SARIF 2.1.0, for code scanning: what is not met. Violated: error; not proved: warning (the gate fails on both)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from lipcert.gate.steps import help_markdown, help_text, page, step
from lipcert.gate.verdict import Verdict
from lipcert.terms.printable import printable
from lipcert.terms.version import __version__

LEVELS = {"violated": "error", "not proved": "warning"}
RULES = {
    "max_upper": "A proved upper value of the Lipschitz constant is at most the limit.",
    "max_ratio": "The certified interval is tight.",
    "min_certified_accuracy": "Enough samples are certified at eps.",
    "min_median_radius": "The median certified radius is large enough.",
    "max_regression_percent": "The model is not worse than the baseline.",
    "require_methods": "The named methods gave a value.",
    "require_parity": "The model was read as the original computes.",
    "model_sha256": "The report is of the expected model.",
    "field": "A field of the report is within its limits.",
}


def to_sarif(verdicts: Sequence[Verdict]) -> str:
    names = list(RULES)
    rules = [
        {"id": _id(name), "name": _pascal(name), "shortDescription": {"text": RULES[name]}, "fullDescription": {"text": RULES[name]},
         "help": {"text": help_text(name), "markdown": help_markdown(name)}, "helpUri": page(name)}
        for name in names
    ]  # fmt: skip
    results = [
        {
            "ruleId": _id(verdict.check),
            "ruleIndex": names.index(verdict.check),
            "level": LEVELS[verdict.status],
            "message": {"text": _message(verdict)},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": relative_uri(verdict.model or verdict.report), "uriBaseId": "%SRCROOT%"},
                        "region": {"startLine": 1},
                    }
                }
            ],
            "partialFingerprints": {"lipcertRule/v1": verdict.fingerprint},
        }
        for verdict in verdicts
        if verdict.status in LEVELS
    ]  # fmt: skip
    driver = {"name": "lipcert", "version": __version__, "rules": rules}
    run: dict[str, Any] = {"tool": {"driver": driver}, "results": results, "columnKind": "unicodeCodePoints"}
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=1, allow_nan=False) + "\n"


def _message(verdict: Verdict) -> str:
    text = f"{verdict.rule}: {verdict.status}: {verdict.message}"
    said = step(verdict.check, verdict.status)
    if verdict.samples:
        text += f" (samples {', '.join(map(str, verdict.samples[:20]))}{', ..' if len(verdict.samples) > 20 else ''})"
    text += f". {said}" if said else ""
    # In SARIF messages [text](n) is a link and {0} a placeholder.
    return (
        printable(text)
        .replace("\\", "\\\\")
        .replace("[", "\\[")
        .replace("]", "\\]")
        .replace("{", "{{")
        .replace("}", "}}")
    )


def relative_uri(path: str | None) -> str:
    """Relative to here where the file is below, else only its name: no absolute path of this machine leaves it."""
    if not path:
        return "gate.toml"
    try:
        inside = Path(path).resolve().relative_to(Path.cwd().resolve())
    except (ValueError, OSError):
        inside = Path(Path(path).name or "model")
    return quote(str(PurePosixPath(*inside.parts)).encode("utf-8", "backslashreplace"), safe="/") or "model"


def _id(check: str) -> str:
    return "lipcert/" + check.replace("_", "-")


def _pascal(check: str) -> str:
    return "".join(word.capitalize() for word in check.split("_"))
