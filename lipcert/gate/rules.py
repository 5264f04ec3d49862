"""`lipcert gate`: rules against reports. Fails closed: what is missing, foreign or unclear is not proved.

Nothing is taken from a report's summary that its points can tell: accuracies and medians are computed again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from lipcert.gate.given import Given
from lipcert.gate.policy import Rule
from lipcert.gate.verdict import Status, Verdict
from lipcert.gate.wanted import Wanted
from lipcert.terms.files import odd

RIGHT = ("certified", "not certified")
Answer = tuple[Status, str, tuple[int, ...]]


class NotProved(Exception):
    """Why the report does not answer the rule."""


def judge(rules: Sequence[Rule], reports: Sequence[Given], baselines: Sequence[Given] = ()) -> list[Verdict]:
    """One verdict per rule and report that the rule is about; a rule without a report is not proved."""
    verdicts = []
    reports, baselines = ([given for given in some if not given.verdicts] for some in (reports, baselines))
    for rule in rules:
        about = [report for report in reports if report.unfit is not None or _miss(rule, report) is None]
        if not about:
            missing = f"no report answers it{_asked(rule)}{_near(rule, reports)}"
            verdicts.append(Verdict(rule.name, rule.check, "not proved", missing))
        for report in about:
            status, message, samples = _answer(rule, report, baselines)
            verdicts.append(Verdict(rule.name, rule.check, status, message, report.path, report.model, samples))
    return verdicts


def _asked(rule: Rule) -> str:
    command = _commands(rule)
    asked = [f"`lipcert {' or '.join(command)}`"] if command else []
    asked += [words] if (words := str(_wanted(rule))) else []
    return f" ({', '.join(asked)})" if asked else ""


def _near(rule: Rule, reports: Sequence[Given]) -> str:
    """Reports of the right command (if there are none, of others), with the first field in which each asks something else."""
    command, fit = _commands(rule), [report for report in reports if report.unfit is None]
    near = [r for r in fit if command is None or r.data["command"] in command] or fit
    found = [f"{report.path}: {_miss(rule, report)}" for report in near[:NEAR]]
    found += ["..."] if len(near) > NEAR else []
    return f"; near it: {'; '.join(found)}" if found else ""


def _commands(rule: Rule) -> tuple[str, ...] | None:
    return (rule.options["command"],) if "command" in rule.options else COMMANDS.get(rule.check)


def _wanted(rule: Rule) -> Wanted:
    return Wanted.of(rule.options, rule.check in OF_VALUES)


def _miss(rule: Rule, report: Given) -> str | None:
    """Why the report is not about the rule; None: it answers its question."""
    command = _commands(rule)
    if command is not None and report.data["command"] not in command:
        return f"it is of `lipcert {report.data['command']}`"
    assert report.question is not None
    return _wanted(rule).miss(report.question)


def _answer(rule: Rule, report: Given, baselines: Sequence[Given]) -> Answer:
    if report.unfit is not None:
        return "not proved", report.unfit, ()
    if report.data["self_check"].get("passed") is not True:
        inside = tuple(i for i in report.data["self_check"].get("points") or () if isinstance(i, int))
        return "violated", "the report failed its own self-check: one of its values is wrong", inside
    try:
        return RULES[rule.check](rule, report, baselines)
    except NotProved as problem:
        return "not proved", str(problem), ()
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError) as problem:
        return "not proved", f"the report is not as the schema says ({type(problem).__name__}: {odd(problem)})", ()


def upper(data: Mapping[str, Any], rigor: str = "proved") -> float:
    """The least upper value of that rigor; the field `upper` must agree with a proved result."""
    rigors = ("proved",) if rigor == "proved" else ("proved", "numeric")
    rows = [row for row in data["results"] if isinstance(row, dict)]
    values = [
        _number(row.get("value"), "a result")
        for row in rows
        if row.get("side") == "upper" and row.get("status") == "ok" and row.get("rigor") in rigors
    ]
    if not values:
        reasons = [str(row.get("reason")) for row in rows if row.get("side") == "upper" and row.get("reason")]
        raise NotProved(f"no {rigor} upper value" + (f": {reasons[0]}" if reasons else ""))
    proved = [row.get("value") for row in rows if row.get("rigor") == "proved" and row.get("side") == "upper"]
    if data.get("upper") != min((v for v in proved if v is not None), default=None):
        raise NotProved("the field 'upper' is not the least proved value of the results")
    return min(values)


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise NotProved(f"{what} is {value!r}, not a number")
    return float(value)


def max_upper(rule: Rule, report: Given, baselines: Sequence[Given]) -> Answer:
    data = report.data
    limit = rule.value
    if data.get("lower") is not None and _number(data["lower"], "lower") > limit:
        return "violated", f"a witness attains {data['lower']!r}, above {limit!r}", ()
    value = upper(data, rule.options.get("rigor", "proved"))
    if value <= limit:
        return "met", f"upper {value!r} <= {limit!r}", ()
    return "not proved", f"upper {value!r} is above {limit!r}, but no witness is (lower {data.get('lower')!r})", ()


def max_ratio(rule: Rule, report: Given, baselines: Sequence[Given]) -> Answer:
    data = report.data
    value, lower = upper(data, rule.options.get("rigor", "proved")), _number(data.get("lower"), "lower")
    if value <= rule.value * lower:
        return "met", f"upper {value!r} <= {rule.value!r} x lower {lower!r}", ()
    return "violated", f"upper {value!r} is more than {rule.value!r} x lower {lower!r}", ()


def points(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The points of a complete `radius` report, each checked."""
    rows = data["points"]
    asked = data["summary"].get("asked")
    wanted = asked.get("samples") if isinstance(asked, dict) else None
    if not rows or wanted != len(rows) or [isinstance(p, dict) and p.get("index") for p in rows] != [*range(len(rows))]:
        raise NotProved(f"it has {len(rows)} of {wanted} samples")
    for row in rows:
        if row.get("status") not in (*RIGHT, "misclassified", "tie", "undefined"):
            raise NotProved(f"sample {row['index']} has status {row.get('status')!r}")
        radius = _number(row.get("radius"), f"the radius of sample {row['index']}")
        if radius < 0 or (radius > 0 and row["status"] != "certified"):
            raise NotProved(f"sample {row['index']} is {row['status']} with radius {radius!r}")
        if row.get("attacked") is not None:
            _number(row["attacked"], f"the attack on sample {row['index']}")
    return rows


def min_certified_accuracy(rule: Rule, report: Given, baselines: Sequence[Given]) -> Answer:
    data = report.data
    rows, eps, least = points(data), rule.options["eps"], rule.value
    if data["summary"].get("labelled") is not True and data["summary"]["asked"].get("tolerance") is None:
        raise NotProved("its samples have no labels: nothing is known of accuracy")
    certified = sum(row["radius"] >= eps and row["radius"] > 0 for row in rows) / len(rows)
    lost = tuple(row["index"] for row in rows if _lost(row, eps))
    survived = 1 - len(lost) / len(rows)
    if certified >= least:
        return "met", f"{certified:.4f} of {len(rows)} samples are certified at {eps!r}, at least {least!r}", ()
    if survived < least:
        return (
            "violated",
            f"only {survived:.4f} of {len(rows)} samples are right and unbroken at {eps!r}, less than {least!r}",
            lost,
        )
    weak = tuple(row["index"] for row in rows if row["radius"] < eps and row["index"] not in set(lost))
    return "not proved", f"{certified:.4f} of {len(rows)} samples are certified at {eps!r}, less than {least!r}", weak


def _lost(row: Mapping[str, Any], eps: float) -> bool:
    return row["status"] not in RIGHT or (row.get("attacked") is not None and row["attacked"] <= eps)


def min_median_radius(rule: Rule, report: Given, baselines: Sequence[Given]) -> Answer:
    data = report.data
    rows = points(data)
    value = median(row["radius"] for row in rows)
    if value >= rule.value:
        return "met", f"median radius {value!r} >= {rule.value!r}", ()
    most = [
        math.inf if row.get("attacked") is None and row["status"] in RIGHT else row.get("attacked") or 0.0
        for row in rows
    ]
    if median(most) < rule.value:
        lost = tuple(row["index"] for row, far in zip(rows, most, strict=True) if far < rule.value)
        return "violated", f"the median of the attacks is {median(most)!r}, below {rule.value!r}", lost
    return "not proved", f"median radius {value!r} is below {rule.value!r}", ()


def field_between(rule: Rule, report: Given, baselines: Sequence[Given]) -> Answer:
    data = report.data
    value = _field(data, rule.value, rule.options.get("rigor", "proved"))
    low, high = rule.options.get("min", -math.inf), rule.options.get("max", math.inf)
    words = f"{rule.value} is {value!r}"
    if low <= value <= high:
        return "met", words, ()
    return "violated", f"{words}, not between {low!r} and {high!r}", ()


def _field(data: Mapping[str, Any], path: str, rigor: str = "proved") -> float:
    """A number by its dotted path; `upper` only where a proved result backs it, an upper value of a result only where
    it has the rigor."""
    if path == "upper":
        return upper(data, rigor)
    if path == "summary.radius.median":
        return float(median(row["radius"] for row in points(data)))
    here: Any = data
    for key in path.split("."):
        if isinstance(here, Mapping) and here.get("side") == "upper" and here.get("rigor") not in ("proved", rigor):
            raise NotProved(f"{path} is {here.get('rigor')!r}, not {rigor}")
        if isinstance(here, list) and key.isdigit() and int(key) < len(here):
            here = here[int(key)]
        elif isinstance(here, Mapping) and key in here:
            here = here[key]
        else:
            raise NotProved(f"it has no field {path}")
    return _number(here, path)


def max_regression(rule: Rule, report: Given, baselines: Sequence[Given]) -> Answer:
    """Of values that should be small (`upper`) or, all others, large."""
    data = report.data
    what = rule.options.get("of") or ("summary.radius.median" if data["command"] == "radius" else "upper")
    base = _baseline(report, baselines)
    if base.data["self_check"].get("passed") is not True:
        raise NotProved(f"the baseline {base.path} failed its self-check")
    assert report.question is not None
    assert base.question is not None
    mine, theirs = report.question, base.question
    if not mine.file or not theirs.file:
        raise NotProved("the sha256 of a model is missing")
    same = (mine.file, mine.graph) == (theirs.file, theirs.graph)  # weights may lie beside equal files
    if not same and not rule.options.get("allow_other_model", False):
        raise NotProved("the baseline is of another model: allow_other_model = true accepts that")
    value, before = _field(data, what), _field(base.data, what)
    share = rule.value / 100
    small = what == "upper"
    fine = value <= before * (1 + share) if small else value >= before * (1 - share)
    words = f"{what} is {value!r}, {before!r} before"
    return ("met" if fine else "violated"), words + ("" if fine else f": worse by more than {rule.value!r} %"), ()


def _baseline(report: Given, baselines: Sequence[Given]) -> Given:
    """The first that asks the same question of whatever model. NotProved says what the nearest one asks."""
    assert report.question is not None
    why = "no --baseline was given"
    for base in baselines:
        if base.question is None or base.unfit is not None:
            why = f"{base.path}: {base.unfit}"
            continue
        found = report.question.of_any_model().first_difference(base.question.of_any_model())
        if found is None:
            return base
        why = f"{base.path}: {found}"
    raise NotProved(f"no --baseline asks the same question: {why}")


def require_methods(rule: Rule, report: Given, baselines: Sequence[Given]) -> Answer:
    data = report.data
    gave = {row.get("method") for row in data["results"] if isinstance(row, dict) and row.get("status") == "ok"}
    gave |= {m for row in data["points"] if isinstance(row, dict) for m, r in (row.get("radii") or {}).items() if r}
    constants = data["summary"].get("constants") or ()
    gave |= {row.get("method") for row in constants if isinstance(row, dict) and row.get("upper") is not None}
    missing = [name for name in rule.value if name not in gave]
    if missing:
        raise NotProved(f"no value of {', '.join(missing)}")
    return "met", f"values of {', '.join(rule.value)}", ()


def require_parity(rule: Rule, report: Given, baselines: Sequence[Given]) -> Answer:
    data = report.data
    rows = data["model"].get("parity")
    if not isinstance(rows, list) or not rows:
        raise NotProved("the model was not compared with the original")
    compared = [row for row in rows if isinstance(row, dict) and row.get("points")]
    if not compared:
        raise NotProved("no point could be compared with the original")
    for row in compared:
        if not _number(row.get("difference"), "a difference") <= _number(row.get("allowed"), "what is allowed"):
            return "violated", f"it differs from {row.get('reference')} by {row['difference']!r}", ()
    return "met", f"equal to the original at {sum(row['points'] for row in compared)} points", ()


def model_sha256(rule: Rule, report: Given, baselines: Sequence[Given]) -> Answer:
    """The digest of a file says nothing of weights in other files; that of the graph covers every weight that is read."""
    model, wanted = report.data["model"], rule.value.lower()
    found, graph, files = model.get("sha256"), model.get("graph"), model.get("files") or []
    if not isinstance(found, str):
        raise NotProved("the sha256 of the model is missing")
    if isinstance(graph, str) and wanted == graph:
        return "met", f"graph {graph[:12]}, all weights included", ()
    if found == wanted and files:
        place = f"{files[0].get('path')}" if isinstance(files, list) and isinstance(files[0], dict) else "other files"
        raise NotProved(
            f"its weights lie in {place}, which the sha256 of the model file does not cover: write that of `model.graph`"
            + (f", {graph}" if isinstance(graph, str) else "")
        )
    if found == wanted:
        return "met", f"sha256 {found[:12]}", ()
    return "violated", f"the report is of sha256 {found[:12]}", ()


# commands whose reports answer a check; all others: any
COMMANDS: dict[str, tuple[str, ...]] = {
    "max_upper": ("bound",),
    "max_ratio": ("bound",),
    "min_certified_accuracy": ("radius",),
    "min_median_radius": ("radius",),
    "max_regression_percent": ("bound", "radius"),
}
# checks of a constant, a radius or a number beside them: of the whole space, the vector and the model's units unless said
OF_VALUES = (
    "max_upper",
    "max_ratio",
    "min_certified_accuracy",
    "min_median_radius",
    "max_regression_percent",
    "field",
)
NEAR = 3  # reports that a verdict names
RULES: dict[str, Callable[[Rule, Given, Sequence[Given]], Answer]] = {
    "max_upper": max_upper,
    "max_ratio": max_ratio,
    "min_certified_accuracy": min_certified_accuracy,
    "min_median_radius": min_median_radius,
    "max_regression_percent": max_regression,
    "require_methods": require_methods,
    "require_parity": require_parity,
    "model_sha256": model_sha256,
    "field": field_between,
}
