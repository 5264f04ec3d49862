"""How far shards scale: `python scripts/scale.py`, the table of docs/howto/cluster.md; `--shards N --seconds S` for other work.

Measured here: the processor time of a shard, and what the client does for each (sending, taking over, journal with fsync).
Simulated from it: one client that serves one shard at a time, workers that have one shard at work and one at hand, as
`tasks/workers/stream.py` sends them. The client is what saturates: no more than (seconds of a shard) / (seconds of the client for it)
workers are busy, whatever their number; before that, the last shards leave workers idle.
"""

from __future__ import annotations

import argparse
import heapq
import random
import tempfile
import time
from pathlib import Path

WORKERS = (1, 2, 4, 16, 64, 256, 1000)
AT_HAND = 2  # shards of a worker: one at work, one that waits
SPREAD = 0.3  # of the time of a shard, relative


def simulated(workers: int, shards: int, seconds: float, client: float, latency: float = 1e-3) -> float:
    """Seconds until all is taken over. `client`: for one shard, half of it when it is sent. `latency`: of each way."""
    dice = random.Random(0)
    work = [max(0.1, dice.gauss(1.0, SPREAD)) * seconds for _ in range(shards)]
    free = [0.0] * workers  # when each worker has done what it was sent
    now, sent, returns = 0.0, 0, list[tuple[float, int]]()

    def send(worker: int) -> None:
        nonlocal now, sent
        now += client / 2
        free[worker] = max(free[worker], now + latency) + work[sent]
        heapq.heappush(returns, (free[worker] + latency, worker))
        sent += 1

    for _ in range(AT_HAND):
        for worker in range(workers):
            if sent < shards:
                send(worker)
    while returns:
        back, worker = heapq.heappop(returns)
        now = max(now, back) + client / 2
        if sent < shards:
            send(worker)
    return now


def measured() -> tuple[float, float]:
    """Processor seconds of one shard of `local --at` on examples/digits.onnx, and of the client for it."""
    import numpy as np
    import torch

    import lipcert

    torch.set_num_threads(1)
    examples = Path(__file__).resolve().parents[1] / "examples"
    model = lipcert.load(examples / "digits.onnx")
    with np.load(examples / "digits_test.npz") as data:
        x = data["x"][:40]
    ask = {"methods": ["linear"], "each": 60.0}
    lipcert.local(model, x[:1], 0.1, **ask)
    start = time.process_time()
    lipcert.local(model, x, 0.1, **ask)
    alone = time.process_time() - start
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        lipcert.local(model, x[:1], 0.1, workers=1, journal=Path(folder, "one"), **ask)
        once, start = time.process_time() - start, time.process_time()
        lipcert.local(model, x, 0.1, workers=1, journal=Path(folder, "all"), **ask)
        client = time.process_time() - start - once
    return alone / len(x), max(1e-5, client / (len(x) - 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, help="of a shard (default: measured, and ten times it)")
    arguments = parser.parse_args()
    seconds, client = measured()
    print(f"measured: {seconds:.3g} s of a shard, {client:.3g} s of the client for it ({seconds / client:.0f} to 1)\n")
    sizes = [arguments.seconds] if arguments.seconds else [seconds, 10 * seconds]
    print("| workers |", " | ".join(f"{arguments.shards:,} shards of {s:.2g} s" for s in sizes), "|")
    print("|---:|" + "---:|" * len(sizes))
    for workers in WORKERS:
        speeds = [arguments.shards * s / simulated(workers, arguments.shards, s, client) for s in sizes]
        print(f"| {workers:,} |", " | ".join(f"{speed:,.1f}" for speed in speeds), "|")


if __name__ == "__main__":
    main()
