"""What this installation is and can do, and whether it computes rightly: for a bug report, and before a long run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lipcert.sandbox.confine import described
from lipcert.terms.version import __version__

NEEDED = ("torch", "numpy", "onnx", "typer", "rich", "jinja2")
OPTIONAL = {  # package -> what it is for, and the extra that brings it
    "onnxruntime": ("second opinion on ONNX files", "onnxruntime"),
    "onnx2torch": ("second reader of ONNX files", "onnx2torch"),
    "cvxpy": ("generic solvers, to compare with", "cvxpy"),
    "scs": ("generic solver", "cvxpy"),
    "clarabel": ("generic solver", "cvxpy"),
    "matplotlib": ("pictures", "plots"),
    "pandas": ("Report.to_frame()", "pandas"),
}
TESTED = 3.0  # the constant of the network of the self-test


@dataclass(frozen=True)
class Finding:
    """`ok`: None where nothing is right or wrong about it."""

    group: str
    name: str
    value: str
    ok: bool | None = None


def doctor() -> list[Finding]:
    """Versions, devices, optional parts, arithmetic and a bound of a small network. Takes a few seconds."""
    sandbox = Finding("sandbox", "model files", f"read under {described()}")
    return [*_versions(), *_optional(), *_devices(), sandbox, *(_test(name, test) for name, test in TESTS.items())]


def _versions() -> list[Finding]:
    found = [
        Finding("versions", "lipcert", __version__),
        Finding("versions", "python", platform.python_version(), sys.version_info >= (3, 11)),
        Finding("versions", "platform", platform.platform()),
    ]
    return found + [
        Finding("versions", name, _version(name) or "missing", _version(name) is not None) for name in NEEDED
    ]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _optional() -> list[Finding]:
    found = []
    for name, (use, extra) in OPTIONAL.items():
        version = _version(name)
        absent = f"absent ({use}): pip install 'lipcert[{extra}]'"
        found.append(Finding("optional parts", name, absent if version is None else f"{version} ({use})"))
    return found


def _devices() -> list[Finding]:
    import torch

    found = [Finding("devices", "cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads")]
    if not torch.cuda.is_available():
        return [*found, Finding("devices", "cuda", "none that torch can use")]
    names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return [*found, *(Finding("devices", f"cuda:{k}", name) for k, name in enumerate(names))]


def _test(name: str, test: Callable[[], str]) -> Finding:
    """What a test says; what it raises is what is wrong."""
    try:
        return Finding("self-test", name, test(), True)
    except Exception as problem:
        return Finding("self-test", name, f"{type(problem).__name__}: {problem}", False)


def _rounding() -> str:
    """Every proof stands on IEEE 754 float64 with round to nearest."""
    import torch

    one = torch.ones(1, dtype=torch.float64)
    half, whole = (float(one + 2.0**-k - one) for k in (53, 52))
    if half != 0.0 or whole != 2.0**-52 or float(one * 3 * 2.0**-54 + one - one) != 2.0**-52:
        raise ArithmeticError("sums are not rounded to nearest")
    return "float64, to nearest"


def _subnormals() -> str:
    import torch

    tiny = torch.full((64,), 5e-324, dtype=torch.float64)
    if not bool((tiny * 1.0 > 0).all()):
        return "flushed to zero by this process (proofs keep them all the same)"
    return "kept"


def _bound() -> str:
    """A network whose constant is known: read, bounded on both sides, and closed."""
    lower, upper = _measured()
    if lower is None or upper is None or not lower <= TESTED <= upper:
        raise ArithmeticError(f"the constant {TESTED} is not within {lower} and {upper}")
    if upper > TESTED * (1 + 1e-6) or lower < TESTED * (1 - 1e-6):
        raise ArithmeticError(f"the bracket of {TESTED} is wide: {lower} to {upper}")
    return f"{lower!r} <= {TESTED} <= {upper!r}"


def _measured() -> tuple[float | None, float | None]:
    import torch

    from lipcert.load.model import load
    from lipcert.tasks.bound import BoundRequest, bound

    class Known(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.relu(TESTED * x)

    report = bound(load(Known(), input_shape=(1, 2)), BoundRequest(methods=["product", "sampled"]))
    return report.lower, report.upper


TESTS: dict[str, Callable[[], str]] = {"rounding": _rounding, "subnormal numbers": _subnormals, "a known bound": _bound}
