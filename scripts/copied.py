"""What a plain `lipcert bound FILE` says of the models that people bring, and the command that it prints to copy: docs/howto/answers.md.

`python scripts/copied.py --write` runs both for each model, as a person would type and copy them, and writes the page's
table; `--only NAME ...` some of them. One child process each, one thread; its CPU seconds and its largest memory are told. The
models: LIPCERT_SHARED.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs/howto/answers.md"
BEGIN, END = "<!-- answers -->\n", "<!-- /answers -->"
HEAD = "| model | command | answer | CPU | memory |\n|---|---|---|---:|---:|\n"
COPY = "  | copy: "
SECONDS = 1800  # on the clock, of one command
COMMANDS = 3  # the plain one and what it leads to, at most
MODELS = {
    "ResNet": "models/cifar10_resnet_2b.onnx",
    "ResNet with batch norm": "models/sri_resnet_b.onnx",
    "U-Net": "models/carvana_unet_simp_small.onnx",
    "vision transformer": "models/vit_pgd_2_3_16.onnx",
    "vision transformer with LayerNorm": "wild/vit.onnx",
    "LSTM policy": "models/unitree_g1_motion.pt",
    "YOLO": "models/yolo_tiny.onnx",
    "silero_vad": "models/silero_vad.onnx",
    "silero_vad, TorchScript": "models/silero_vad.jit.pt",
    "TD3 critic": "wild/td3.onnx",
    "critic with LayerNorm": "wild/critic.onnx",
}


@dataclass(frozen=True)
class Said:
    """One command: its status, the first lines of its answer, the command that it printed, and what it took."""

    command: str
    answer: str
    copied: str
    seconds: float
    gigabytes: float


def carried_out(command: str, folder: Path) -> Said:
    """The words of a command line of lipcert, run in `folder`. What it took counts the processes that it started."""
    words = [sys.executable, "-m", "lipcert", *shlex.split(command)[1:]]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "COLUMNS": "240"}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen(words, cwd=folder, env=env, stdout=out, stderr=err)
        limit = threading.Timer(SECONDS, child.kill)
        limit.start()
        _, status, used = os.wait4(child.pid, 0)
        limit.cancel()
        out.seek(0)
        err.seek(0)
        told, complaints = out.read(), err.read()
    said = f"no answer within {SECONDS} s" if os.WIFSIGNALED(status) else answer(told, complaints)
    copied = next((line.removeprefix(COPY) for line in complaints.splitlines() if line.startswith(COPY)), "")
    return Said(command, said, copied, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20)


def answer(out: str, err: str) -> str:
    """The interval, or the first complaint without the file's name."""
    framed = [line.strip("│ ") for line in out.splitlines() if line.startswith("│")]
    if framed and not framed[0].startswith("nothing"):
        return framed[0].replace("   ", ", ").replace("<=", "≤")
    first = next((line for line in err.splitlines() if line.startswith("lipcert: ")), "no word").removeprefix(
        "lipcert: "
    )
    return first if len(first) <= 160 else first[:159] + "…"


def rows(kind: str, path: str, folder: Path) -> list[str]:
    """The plain command, then each that the one before printed."""
    command, found = f"lipcert bound {path}", []
    while command and len(found) < COMMANDS:
        said = carried_out(command, folder)
        shown = said.command.replace(path, Path(path).name)
        cells = [
            kind if not found else "",
            f"`{shown}`",
            said.answer,
            f"{said.seconds:.0f} s",
            f"{said.gigabytes:.1f} GB",
        ]
        found.append("| " + " | ".join(cell.replace("|", r"\|").replace(f"{path}: ", "") for cell in cells) + " |")
        print(found[-1], flush=True)
        command = said.copied
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", metavar="NAME")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    folder = Path(os.environ.get("LIPCERT_SHARED", REPOSITORY.parent / "shared"))
    asked = {kind: path for kind, path in MODELS.items() if not options.only or kind in options.only}
    table = [row for kind, path in asked.items() for row in rows(kind, path, folder)]
    if options.write and asked == MODELS:
        text = PAGE.read_text()
        start, stop = text.index(BEGIN) + len(BEGIN), text.index(END)
        PAGE.write_text(text[:start] + HEAD + "\n".join(table) + "\n" + text[stop:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
