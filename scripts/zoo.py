"""Models that people start from: `python scripts/zoo.py` reads and bounds torchvision's, with random weights, a line each.

`--only NAME ..`: some of them; `--write`: each row into docs/zoo.md as soon as it is known. Each model is one child process with a limit of time and of memory. It is
read as a module at 1 x 3 x 224 x 224 and asked for l2, over the whole space (`product`) and on a ball of radius 1e-4 in linf around
a random image (`local-product`, `sampled`). Seconds are of one core, and its limit is in them: a busy machine fails no model; on the clock it
may take four times as long, after which a child that only waits is ended. torchvision is no dependency: `pip install --no-deps
torchvision pillow` into any folder, on PYTHONPATH; its compiled part is not needed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from lipcert.report.report import Report
from lipcert.terms.digits import digits

PAGE = Path(__file__).resolve().parents[1] / "docs/zoo.md"
BEGIN, END = "<!-- zoo -->\n", "<!-- /zoo -->"
SECONDS, GIGABYTES = 600, 12
BUSY = 4  # times as long on the clock, at most
RADIUS = 1e-4
SIZE = 224
CLASSIFICATION = """alexnet vgg11 vgg16_bn resnet18 resnet34 resnet50 wide_resnet50_2 resnext50_32x4d densenet121 googlenet
inception_v3 squeezenet1_1 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large shufflenet_v2_x1_0 mnasnet1_0 regnet_y_400mf
regnet_x_400mf efficientnet_b0 efficientnet_v2_s convnext_tiny vit_b_32 swin_t swin_v2_t maxvit_t""".split()
SEGMENTATION = "fcn_resnet50 deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large".split()


def built(name: str) -> Any:
    """The module with random weights, in evaluation mode; of several outputs the first."""
    import torch
    from torch import nn

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):  # it wants them to exist, compiled or not
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision

        torch.manual_seed(0)
        more: dict[str, Any] = {"weights": None} | ({"weights_backbone": None} if name in SEGMENTATION else {})
        if name in ("googlenet", "inception_v3"):
            more |= {"init_weights": False, "aux_logits": False}
        model = torchvision.models.get_model(name, **more).eval()
        for parameter in model.parameters():  # heads that begin at 0 make a constant of the model
            if parameter.dim() > 1 and not bool(parameter.any()):
                nn.init.kaiming_uniform_(parameter)

    class Out(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x)["out"]

    return Out().eval() if name in SEGMENTATION else model


def ask(name: str, told: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES << 30, GIGABYTES << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    found: dict[str, Any] = {}

    def say(**more: Any) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        found.update(more, gigabytes=used.ru_maxrss / 2**20, cpu=used.ru_utime + used.ru_stime)
        Path(told).write_text(json.dumps(found))

    import torch

    import lipcert
    from lipcert.methods.problem import Problem
    from lipcert.methods.sampled import Sampled
    from lipcert.terms.query import Norm
    from lipcert.terms.result import Bound

    try:
        module = built(name)
        torch.set_num_threads(1)
        start = time.process_time()
        model = lipcert.load(module, input_shape=(1, 3, SIZE, SIZE))
        say(read=time.process_time() - start, neurons=model.graph.neurons)
        whole = lipcert.bound(model, methods=["product"])
        say(whole=whole.upper, why=refused(whole))
        x = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        region = lipcert.Ball(x, RADIUS, "inf")
        ball = lipcert.bound(model, region=region, methods=["local-product"])
        say(
            ball=ball.upper,
            why="" if whole.upper is not None else refused(whole) if ball.upper is not None else refused(ball),
        )
        search = Sampled(points=1, rounds=1)  # at the image alone: a round of many points takes minutes
        attained = search.run(Problem(model.graph, Norm(), region))
        say(lower=attained.value if isinstance(attained, Bound) else None)
    except Exception as problem:
        say(why=f"{type(problem).__name__}: {problem}".splitlines()[0][:200])


def refused(report: Report) -> str:
    reason = next((r["reason"] for r in report.to_dict()["results"] if r.get("reason")), "")
    return reason.partition(": ")[2].partition(": ")[0] or reason


def measured(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder, "answer.json")
        child = multiprocessing.get_context("spawn").Process(target=ask, args=(name, str(told)))
        child.start()
        child.join(BUSY * SECONDS)
        if waiting := child.is_alive():
            child.kill()
            child.join()
        late = waiting or child.exitcode == -signal.SIGXCPU
        found = json.loads(told.read_text()) if told.exists() else {}
    if late:
        found["why"] = f"not done within {BUSY * SECONDS} s on the clock" if waiting else f"not done within {SECONDS} s"
    elif "why" not in found:
        found["why"] = f"exit {child.exitcode}"
    return {"name": name, **found}


def row(found: dict[str, Any]) -> str:
    ball, lower = found.get("ball"), found.get("lower")
    whole, near = ("-" if value is None else digits(value, "upper") for value in (found.get("whole"), ball))
    cells = [
        found["name"],
        f"{found.get('neurons', 0):,}",
        f"{found['read']:.0f} s" if "read" in found else "no",
        whole,
        near,
        f"{ball / lower:.2g}" if ball and lower else "-",
        f"{found.get('cpu', 0.0):.0f} s",
        f"{found.get('gigabytes', 0.0):.1f} GB",
        found["why"][:100].replace("|", ""),
    ]
    return "| " + " | ".join(cells) + " |"


HEAD = (
    "| model | neurons | read in | l2, whole space | l2, ball | ball / attained | in all | memory | why not |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---|"
)


def put(line: str) -> None:
    """Into the page, in place of the row of the same model, else as the last one."""
    text = PAGE.read_text()
    start, stop = text.index(BEGIN) + len(BEGIN), text.index(END)
    name = line.split("|")[1].strip()
    kept = text[start:stop].splitlines()[2:]
    names = [old.split("|")[1].strip() for old in kept]
    kept = [line if n == name else old for n, old in zip(names, kept, strict=True)] + ([] if name in names else [line])
    PAGE.write_text(text[:start] + "\n".join([HEAD, *kept]) + "\n" + text[stop:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", metavar="NAME")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    print(HEAD)
    for name in options.only or [*CLASSIFICATION, *SEGMENTATION]:
        line = row(measured(name))
        print(line, flush=True)
        if options.write:
            put(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
