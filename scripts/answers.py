"""How many public models have an answer: `python scripts/answers.py` (a line each, the count at the end), `--only MODEL ...`.

A model is answered where `lipcert bound` gives a finite proved bound over the whole space, or, where it does not, over a
ball of radius 0.01 around 0 or the first of some other points (its first command is told). Each model is one child
process with a limit of time; its seconds and its memory are told. The models: folder `models` of LIPCERT_SHARED.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from model_table import FLAGS, READY, REPOSITORY, command_line, models

from lipcert.terms.digits import digits
from lipcert.terms.printable import printable

SECONDS = 120
BUDGET = 40  # of one ball
EPS = "0.01"
CENTRES = ("0", "0.5", "1")
QUICK = ("--method", "product")
ON_A_BALL = ("--method", "local-product", "--method", "jacobian", "--method", "transfer")


@dataclass(frozen=True)
class Answer:
    model: str
    whole: str  # status over the whole space
    upper: float | None
    ball: str  # "--at .. --eps ..", or nothing
    why: str
    seconds: float
    gigabytes: float

    @property
    def answered(self) -> bool:
        return self.upper is not None

    def __str__(self) -> str:
        upper = "-" if self.upper is None else digits(self.upper, "upper")
        cost = f"{self.seconds:6.1f} s {self.gigabytes:4.1f} GB"
        return f"{self.model:38} {self.whole:10} {upper:>14} {self.ball:22} {cost}  {self.why}"


def measured(path: Path) -> Answer:
    """In a child that asks one question after another until one has a finite answer."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder, "answer.json")
        child = READY.Process(target=ask, args=(str(path), folder))
        child.start()
        child.join(SECONDS)
        late = child.is_alive()
        if late:
            child.kill()
            child.join()
        found = json.loads(told.read_text()) if told.exists() else {}
    why = f"not done within {SECONDS} s" if late else found.get("why", f"exit {child.exitcode}")
    return Answer(
        path.name,
        found.get("whole", "-"),
        found.get("upper"),
        found.get("ball", ""),
        "" if found.get("upper") is not None else why,
        time.monotonic() - start,
        found.get("gigabytes", 0.0),
    )


def ask(path: str, folder: str) -> None:
    flags = FLAGS.get(Path(path).name, ())
    told, report = Path(folder, "answer.json"), Path(folder, "report.json")
    found: dict = {}
    regions = [(), *(("--at", at, "--eps", EPS, "--budget", str(BUDGET)) for at in CENTRES)]
    for region in regions:
        methods = ON_A_BALL if region else QUICK
        said = Path(folder, "stderr.txt")
        words = ["bound", path, *methods, *region, *flags, "--threads", "1", "--quiet", "--json", str(report)]
        with contextlib.suppress(SystemExit):
            command_line(words, said)
        if not report.exists():
            found |= {"whole": "unreadable", "why": printable(said.read_text().strip().splitlines()[0])}
            break
        result = json.loads(report.read_text())
        found.setdefault("whole", result["status"])
        reasons = [row["reason"] for row in result["results"] if row["side"] == "upper" and row["reason"]]
        found |= {
            "upper": result["upper"],
            "ball": " ".join(region[:4]),
            "why": printable(reasons[0])[:100] if reasons else "",
        }
        found["gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        told.write_text(json.dumps(found))
        if result["upper"] is not None or not result["model"]["input_shape"]:
            break
    told.write_text(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="*", metavar="MODEL")
    arguments = parser.parse_args()
    folder = Path(os.environ.get("LIPCERT_SHARED", REPOSITORY.parent / "shared"), "models")
    chosen = [path for path in models(folder) if not arguments.only or path.name in arguments.only]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        answers = []
        for answer in pool.map(measured, chosen):
            print(answer, flush=True)
            answers.append(answer)
    ours = [answer for answer in answers if answer.answered]
    everywhere = [answer for answer in ours if not answer.ball]
    print(
        f"{len(ours)} of {len(answers)} answered: {len(everywhere)} over the whole space, {len(ours) - len(everywhere)} on a ball"
    )


if __name__ == "__main__":
    main()
