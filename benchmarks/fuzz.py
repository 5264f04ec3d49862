"""Long fuzzing of the readers: `python benchmarks/fuzz.py --seconds 3600 --seed 1`.

Every mutant is refused in one printable line, or read: then parity held, lower <= upper, and two runs agree. Canaries: a
file, text on the standard streams, the environment. One line at the end; exit status 1 at the first broken promise, with
the mutant kept.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fuzzing import Broken, judge, seeds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("."), help="folder for a mutant that breaks a promise")
    options = parser.parse_args()
    draw, counts, end = Random(options.seed), Counter[str](), time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as folder:
        honest = seeds(Path(folder))
        while time.monotonic() < end:
            kind = draw.choice(sorted(honest))
            try:
                counts[f"{kind} {judge(kind, honest[kind], draw, Path(folder))}"] += 1
            except Broken as problem:
                kept = options.keep / f"broken.{kind}"
                kept.write_bytes(problem.mutant)
                print(f"{problem}; kept as {kept}")
                return 1
    print(", ".join(f"{name}: {count}" for name, count in sorted(counts.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
