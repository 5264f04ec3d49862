"""A gate's policy: TOML, read strictly. What is unknown in it is an error: a rule that is not understood is not a rule."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lipcert.gate.wanted import Wanted
from lipcert.terms.errors import UnreadableError, UsageError
from lipcert.terms.files import read_text
from lipcert.terms.query import NORMS

# check -> type of its value. Each rule has exactly one of them.
CHECKS: dict[str, type | tuple[type, ...]] = {
    "max_upper": (int, float),
    "max_ratio": (int, float),
    "min_certified_accuracy": (int, float),
    "min_median_radius": (int, float),
    "max_regression_percent": (int, float),
    "require_methods": list,
    "require_parity": bool,
    "model_sha256": str,
    "field": str,
}
# what else a rule may say
WITH: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "command": str,
    "norm": str,
    "region": (str, dict),
    "output": str,
    "units": (str, dict),
    "fixed": (str, dict),
    "weights": str,
    "input": str,
    "execution": str,
    "valid": (str, list),
    "eps": (int, float),
    "rigor": str,
    "min": (int, float),
    "max": (int, float),
    "of": str,
    "allow_other_model": bool,
}
# which checks these say something to; the others ask for the report
ONLY_WITH: dict[str, tuple[str, ...]] = {
    "eps": ("min_certified_accuracy",),
    "rigor": ("max_upper", "max_ratio", "field"),
    "min": ("field",),
    "max": ("field",),
    "of": ("max_regression_percent",),
    "allow_other_model": ("max_regression_percent",),
}
FILES = ("gate.toml", "pyproject.toml")

TEMPLATE = """\
# What `lipcert gate` asks of the reports it is given. It exits with 0 only when every rule is met; a rule that no report
# answers is not proved, and that is not met. Each [[rule]] has one check, marked (check) below. It means the whole input
# space, the vector output and the model's own units, unless it says otherwise.

[[rule]]
name = "l2 constant"
max_upper = 20.0              # (check) a proved upper value, at most this; violated where a witness attains more
norm = "2"                    # only reports in this norm
# region = "global"           # of what: "global" (default), "box", "ball", "balls", "any", or this very "box -1:1,0:2"
# output = "vector"           # "vector" (default; radii: any), a logit "3", a difference "3-5", "pairs", "any"
# units = "model"             # "model" (default), "raw" (some --mean or --std), "any", or {mean = [0.5], std = [0.25]}
# weights = "none"            # "none" (default), or "any": also constants in norms of --weight-in, --weight-out
# input = "x"                 # the input that moves (default: any; others are not held)
# fixed = {sr = 16000}        # what other inputs are held at, or "any" (default: none is held, or any where `input` is said)
# execution = "float32"       # only reports that cover this execution too (default: any; real arithmetic is in all)
# valid = [0, 1]              # radii that hold for inputs with entries in this range alone do, or "any" (default: they do not)
# rigor = "numeric"           # also take values that are not proved (default "proved")

# [[rule]]
# name = "the interval is tight"
# max_ratio = 3.0             # (check) upper / lower

[[rule]]
name = "robust at 0.01"
min_certified_accuracy = 0.40 # (check) share of all samples that are right and certified at eps
eps = 0.01
norm = "inf"

# [[rule]]
# name = "typical radius"
# min_median_radius = 0.005   # (check) of the certified radii, samples without one counted as 0
# norm = "inf"

# [[rule]]
# name = "no worse than the last release"
# max_regression_percent = 5  # (check) against --baseline: `upper` may rise, radii may fall, by this much
# of = "upper"                # or a field such as "summary.radius.median"
# allow_other_model = true    # the baseline is of another checkpoint

# [[rule]]
# name = "how it was proved"
# require_methods = ["lipsdp"] # (check) these methods gave a value

# [[rule]]
# name = "read correctly"
# require_parity = true       # (check) compared with the original at random points

# [[rule]]
# name = "this very model"
# model_sha256 = "..."        # (check) of a report: model.sha256, or model.graph, which covers weights in other files

# [[rule]]
# name = "float32 is good enough"
# field = "summary.execution.error"  # (check) of bound or local with --execution; on the region, in the output norm
# max = 0.001
# region = "any"

# [[rule]]
# name = "anything else"
# field = "summary.accuracy"  # (check) any number of the report, with min, max or both
# min = 0.95
"""


@dataclass(frozen=True)
class Rule:
    name: str
    check: str
    value: Any
    options: Mapping[str, Any] = field(default_factory=dict)


def read_policy(path: str | Path | None) -> list[Rule]:
    """The rules of a file: its [[rule]] tables, or those of [tool.lipcert.gate]. None: gate.toml or pyproject.toml here."""
    if path is None:
        found = [Path(name) for name in FILES if Path(name).is_file()]
        if not found:
            raise UsageError(
                "--policy: there is no gate.toml here: give a file, or write one with `lipcert gate --init`"
            )
        path = found[0]
    text = read_text(path, f"--policy {path}")
    try:
        data: Any = tomllib.loads(text)
    except RecursionError:
        raise UnreadableError(f"--policy {path}: not a policy: it is nested too deeply") from None
    except ValueError as error:  # not TOML, or a number of more digits than Python converts
        raise UnreadableError(f"--policy {path}: not TOML: {error}") from error
    if Path(path).name == "pyproject.toml":
        for key in ("tool", "lipcert", "gate"):
            data = data.get(key, {})
            if not isinstance(data, Mapping):
                raise UsageError(f"--policy {path}: {key} is no table: the rules are [[tool.lipcert.gate.rule]] tables")
    foreign = sorted(set(data) - {"rule"})
    if foreign:
        raise UsageError(f"--policy {path}: unknown key {foreign[0]!r}: a policy has [[rule]] tables")
    rules = data.get("rule", [])
    if not isinstance(rules, list) or not rules:
        raise UsageError(f"--policy {path}: it has no [[rule]]; see `lipcert gate --init`")
    return [read_rule(row, f"--policy {path}: rule {place}") for place, row in enumerate(rules, 1)]


def read_rule(row: Any, where: str) -> Rule:
    if not isinstance(row, Mapping):
        raise UsageError(f"{where}: write rules as [[rule]] tables")
    foreign = sorted(set(row) - set(CHECKS) - set(WITH))
    if foreign:
        raise UsageError(f"{where}: unknown key {foreign[0]!r}: checks are {', '.join(CHECKS)}")
    checks = [key for key in row if key in CHECKS]
    if len(checks) != 1:
        raise UsageError(
            f"{where}: has {len(checks)} checks ({', '.join(checks) or 'none'}); give one of {', '.join(CHECKS)}"
        )
    for key, value in row.items():
        kind = CHECKS.get(key) or WITH[key]
        wrong = isinstance(value, bool) and kind is not bool
        if wrong or not isinstance(value, kind) or not _held(value):
            raise UsageError(f"{where}: {key} = {_short(value)} makes no sense")
    check = checks[0]
    for key in row:
        if check not in ONLY_WITH.get(key, (check,)):
            raise UsageError(f"{where}: {key} says nothing to {check}; it goes with {' and '.join(ONLY_WITH[key])}")
    need = {"min_certified_accuracy": ("eps",)}.get(check, ())
    for key in need:
        if key not in row:
            raise UsageError(f"{where}: {check} needs {key}")
    if check == "field" and not {"min", "max"} & set(row):
        raise UsageError(f"{where}: field needs min or max")
    if row.get("rigor", "proved") not in ("proved", "numeric"):
        raise UsageError(f"{where}: rigor is proved or numeric, not {row['rigor']!r}")
    if "norm" in row and row["norm"] not in (*NORMS, *(f"{p}->{q}" for p in NORMS for q in NORMS)):
        raise UsageError(f"{where}: norm is 1, 2, inf or such as 1->2, not {row['norm']!r}")
    try:
        Wanted.of(row)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    if check == "require_methods" and not (row[check] and all(isinstance(name, str) for name in row[check])):
        raise UsageError(f"{where}: require_methods is a list of one or more names")
    options = {key: value for key, value in row.items() if key not in (check, "name")}
    return Rule(row.get("name", check), check, row[check], options)


def _held(value: Any) -> bool:
    """Numbers as float64 holds them; anything else."""
    try:
        return not isinstance(value, int | float) or math.isfinite(float(value))
    except OverflowError:
        return False


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def write_template(path: str | Path) -> None:
    try:
        with Path(path).open("x", encoding="utf-8") as stream:
            stream.write(TEMPLATE)
    except FileExistsError:
        raise UsageError(f"--init: {path} exists already; remove it, or name another file with --policy") from None
    except OSError as error:
        raise UsageError(f"--init: cannot write {path}: {error.strerror}") from error


def names(rules: Sequence[Rule]) -> list[str]:
    return [rule.name for rule in rules]
