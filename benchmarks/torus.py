"""Cases of the method `lipsdp-torus`: convolutional networks from 19,000 neurons to ResNet-50, beside every earlier method.

Each is asked once: `torus` is the bound with its certificate, `verify` proves the file again, `earlier` is what the other
methods prove within BUDGET seconds, `attained` the search for lower values.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cases import Measured, Target, in_child, peak_gb

EARLIER = ("product", "absolute", "cplip", "lipsdp-layer", "lipsdp")
BUDGET, SEARCH = 120.0, 60.0  # seconds, of the earlier methods together and of the search for lower values
SMOKED = 1.0  # seconds of the earlier methods in a smoke run
Made = tuple[Path, tuple[int, ...]]  # a file and the shape of its input


def network(
    make: Callable[[Path, bool], Made], targets: tuple[Target, ...] = (), doc: str = ""
) -> Callable[[int, bool], Measured]:
    """A case: `make` writes or finds the file, in a folder, of small size for a smoke run."""

    def run(repeat: int, smoke: bool) -> Measured:
        import lipcert

        done = Measured(against="torus", targets=list(targets))
        with tempfile.TemporaryDirectory() as folder:
            path, shape = make(Path(folder), smoke)
            proof = Path(folder) / "torus.cert"
            model = done.clock("load", lambda: lipcert.load(path, input_shape=shape))
            ask: Any = lambda **options: lipcert.bound(model, **options)  # noqa: E731
            report = done.clock("torus", lambda: ask(methods=["lipsdp-torus"], certificate=proof))
            done.peak_gb = peak_gb()
            done.clock("verify", lambda: lipcert.verify(proof, path, input_shape=shape))
            size = proof.stat().st_size
        budget = SMOKED if smoke else BUDGET
        earlier = done.clock("earlier", lambda: ask(methods=list(EARLIER), budget=budget))
        lower = done.clock("attained", lambda: ask(methods=["sampled"], budget=SEARCH)).lower
        (found,) = (result for result in report.results if result.side == "upper")
        proved = {r.method: r.value for r in earlier.results if getattr(r, "rigor", None) == "proved"}
        best = min(proved, key=proved.__getitem__)
        done.values = {
            "torus": found.value,
            **{key: found.details[key] for key in ("neurons", "dual", "sweeps", "proofs", "maps", "dense_neurons")},
            "sides": found.details["torus"],
            "product": proved.get("product"),
            "cplip": proved.get("cplip"),
            "earlier": proved[best],
            "earlier_method": best,
            "attained": lower,
            "certificate_bytes": size,
        }
        return done

    run.__doc__ = doc
    return run


def shared(name: str) -> Callable[[int, bool], Measured]:
    """A trained network of LIPCERT_SHARED/models."""

    def make(folder: Path, smoke: bool) -> Made:
        shape = (1, 1, 28, 28) if name.startswith("cnn") else (1, 3, 32, 32)
        return Path(os.environ["LIPCERT_SHARED"]) / "models" / f"{name}.onnx", shape

    return network(make, (Target("torus", 60.0),), f"{name}.onnx, trained.")


def chain(depth: int, width: int) -> Callable[[int, bool], Measured]:
    def make(folder: Path, smoke: bool) -> Made:
        side, layers, channels = (10, 3, 2) if smoke else (28, depth, width)
        shape = (1, 1, side, side)
        return in_child(_chain, layers, channels, shape, folder / "chain.onnx"), shape

    return network(make, (Target("torus", 60.0),), f"{depth} random 3x3 convolutions of {width} channels on 28x28.")


def residual(name: str, side: int = 224, targets: tuple[Target, ...] = ()) -> Callable[[int, bool], Measured]:
    def make(folder: Path, smoke: bool) -> Made:
        shape = (1, 3, 16, 16) if smoke else (1, 3, side, side)
        return in_child(_resnet, "resnet6" if smoke else name, shape, folder / f"{name}.onnx"), shape

    return network(make, targets, f"{name} at {side}x{side}, He weights.")


def _chain(depth: int, width: int, shape: tuple[int, ...], path: Path) -> None:
    import networks

    networks.export(networks.conv_chain(depth, width), shape, path)


def _resnet(name: str, shape: tuple[int, ...], path: Path) -> None:
    import networks

    networks.export(networks.resnet(name), shape, path)


CASES: dict[str, Callable[[int, bool], Measured]] = {
    "torus-c3-ch8": shared("cnn_C3_CH8"),
    "torus-c9-ch8": shared("cnn_C9_CH8"),
    "torus-cifar10-2b": shared("cifar10_resnet_2b"),
    "torus-sri-b": shared("sri_resnet_b"),
    "torus-random-c5-ch16": chain(5, 16),
    "torus-random-c17-ch8": chain(17, 8),
    "torus-resnet18": residual("resnet18", 224, (Target("torus", 900.0), Target("peak_gb", 4.0))),
    "torus-resnet34-64": residual("resnet34", 64),
    "torus-resnet50-64": residual("resnet50", 64),
    "torus-resnet34": residual("resnet34"),
    "torus-resnet50": residual("resnet50"),
}
SMOKE = ("torus-random-c5-ch16", "torus-resnet18")
