"""Cases of `--device cuda`: grid, Jacobians, LipSDP, pairs and radii, with the share of the chip's float64 peak where work is counted.

`python benchmarks/run.py $(python benchmarks/gpu.py) --out benchmarks/results-gpu.json` on a machine with a GPU; without one each says
so. A smoke run takes small sizes, on the CPU where there is no GPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from cases import Measured, peak_gb

Run = Callable[[str, bool], tuple[Callable[[], Any], float]]  # (device, smoke) -> the call, its flops (0: not counted)


def case(prepare: Run, doc: str) -> Callable[[int, bool], Measured]:
    def run(repeat: int, smoke: bool) -> Measured:
        import torch

        done = Measured()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu" and not smoke:
            done.values = {"skipped": "torch finds no CUDA device here"}
            return done
        call, flops = prepare(device, smoke)
        call()  # kernels are loaded once in a process
        for _ in range(repeat):
            done.clock("device", call)
        done.peak_gb = peak_gb()
        name = torch.cuda.get_device_name(0) if device == "cuda" else "cpu"
        done.values = {"device": name}
        if flops:
            best = min(t["wall"] for t in done.times["device"])
            peak = rate(device, 256 if smoke else 8192)
            done.values |= {"gflops": flops / best / 1e9, "peak_gflops": peak / 1e9, "share": flops / best / peak}
        return done

    run.__doc__ = doc
    return run


def rate(device: str, n: int) -> float:
    """float64 matrix products of side n, flop/s: the peak of that moment."""
    import time

    import torch

    a, b = (torch.rand(n, n, dtype=torch.float64, device=device) for _ in range(2))
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        float((a @ b)[0, 0])  # reading waits for the device
        best = max(best, 2 * n**3 / (time.perf_counter() - start))
    return best


def _network(sizes: list[int]) -> Any:
    import networks

    import lipcert

    return lipcert.load(networks.mlp(sizes), input_shape=(1, sizes[0]))


def grid(device: str, smoke: bool) -> tuple[Callable[[], Any], float]:
    import torch

    import lipcert

    side = 5 if smoke else 200
    model = _network([2, 20, 20, 1] if smoke else [2, 100, 100, 100, 1])
    box = lipcert.Box(torch.tensor([[-2.0, -1.5]]).double(), torch.tensor([[3.0, 2.0]]).double())
    return lambda: lipcert.local_grid(model, box, (side, side), rtol=0.05, device=device), 0.0


def jacobians(device: str, smoke: bool) -> tuple[Callable[[], Any], float]:
    import torch

    import lipcert

    sizes, count = ([16, 8, 8, 4], 8) if smoke else ([784, 256, 256, 10], 10_000)
    model, x = _network(sizes), torch.rand(count, sizes[0]).numpy()
    layers = sum(n * m for n, m in itertools.pairwise(sizes))
    return lambda: lipcert.jacobian(model, x, device=device), 2.0 * layers * sizes[-1] * count


def lipsdp(device: str, smoke: bool) -> tuple[Callable[[], Any], float]:
    import lipcert

    model = _network([16, 20, 20, 4] if smoke else [784, *[5000] * 4, 10])
    return lambda: lipcert.bound(model, methods=["lipsdp"], device=device), 0.0


def pairs(device: str, smoke: bool) -> tuple[Callable[[], Any], float]:
    import lipcert

    model = _network([16, 10, 10, 4] if smoke else [64, 100, 100, 100, 100])
    return lambda: lipcert.bound(model, methods=["lipsdp"], output="pairs", device=device), 0.0


def radii(device: str, smoke: bool) -> tuple[Callable[[], Any], float]:
    import torch

    import lipcert
    from lipcert.sampling.attack import Pgd

    sizes, count = ([16, 8, 8, 4], 8) if smoke else ([784, 256, 256, 10], 10_000)
    model, x = _network(sizes), torch.rand(count, sizes[0]).numpy()
    return lambda: lipcert.radius(model, x, attack=Pgd(device=device)), 0.0


CASES: dict[str, Callable[[int, bool], Measured]] = {
    "gpu-grid": case(grid, "Local constants of 2-100-100-100-1 on 200x200 cells to 5 %."),
    "gpu-jacobians": case(jacobians, "Jacobian norms of 784-256-256-10 at 10,000 points."),
    "gpu-lipsdp": case(lipsdp, "LipSDP of 784-4x5000-10 (20,000 neurons): sweeps and proof."),
    "gpu-pairs": case(pairs, "LipSDP of the 4,950 pairs of 64-3x100-100."),
    "gpu-radii": case(radii, "Radii of 10,000 samples of 784-256-256-10, certified and attacked."),
}

if __name__ == "__main__":
    print(*(f"--case {name}" for name in CASES))
