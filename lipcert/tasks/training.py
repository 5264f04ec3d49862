"""Smoothness while a network trains: a callback for plain loops, and the same for Lightning.

    watch = Smoothness(example, every=100, x=x_test, y=y_test, log=to_tensorboard(writer))
    for step, batch in enumerate(loader):
        ...
        watch(net, step)

What it measures is a dict of floats, which is all that loggers take: `to_tensorboard(writer)`, `to_mlflow()`,
`to_wandb(run)`, or any function of (values, step). `lower` and `upper` are certified, as `lipcert.bound` gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from lipcert.terms.query import Norm

Values = dict[str, float]
Log = Callable[[Values, int], object]


@dataclass(kw_only=True)
class Smoothness:
    """Measures a network every so many calls; the network is left as it was (mode, gradients, device).

    `example`: an input of batch 1, or a batch, for its shape. `every`: calls between two measurements. `methods`: of
    `lipcert.bound`; the default takes milliseconds for small networks, and "lipsdp" gives the tightest l2 value. `x` (k, ...), `y`
    (k,): data for Jacobian norms and accuracy. `budget`: seconds of the methods. `log`: takes (values, step). `rows`: what was
    measured, {"step": ..., **values}. A network that cannot be bounded has no `upper`, and `refusal` says why.
    """

    example: Any
    every: int = 1
    norm: str | float | Norm = "2"
    methods: Sequence[str] = ("product", "sampled")
    x: Any = None
    y: Any = None
    budget: float | None = None
    seed: int = 0
    log: Log | None = None
    prefix: str = "lipcert/"
    rows: list[dict[str, float]] = field(default_factory=list)
    refusal: str | None = None
    calls: int = 0

    def __call__(self, net: nn.Module, step: int | None = None) -> Values | None:
        """The values, or None between two measurements. `step`: what the logger counts in; default: the calls."""
        here = self.calls if step is None else int(step)
        self.calls += 1
        if (self.calls - 1) % self.every:
            return None
        values = self.measure(net)
        self.rows.append({"step": here, **values})
        if self.log is not None:
            self.log({f"{self.prefix}{name}": value for name, value in values.items()}, here)
        return values

    def measure(self, net: nn.Module) -> Values:
        """lower, upper, the upper value of each layer, and with data Jacobian norms and accuracy: floats, all finite."""
        from lipcert.load.model import load
        from lipcert.tasks import given
        from lipcert.tasks.track import TrackRequest, measured
        from lipcert.terms.errors import RefusedModel

        shape = tuple(given.as_array(self.example, "the example input").shape)
        x = None if self.x is None else given.as_array(self.x)
        asked = TrackRequest(
            norm=given.as_norm(self.norm),
            methods=self.methods,
            x=x,
            y=given.as_labels(self.y),
            budget=self.budget,
            seed=self.seed,
        )
        try:
            row = measured(load(_on_cpu(given.as_source(net)), input_shape=(1, *shape[1:])), asked)
        except RefusedModel as problem:
            self.refusal = str(problem)
            return {}
        self.refusal = row["reason"]
        return floats(row)


def floats(row: Mapping[str, Any]) -> Values:
    """A row of `lipcert track` as loggers take it; what has no value is left out."""
    named = {"lower": row["lower"], "upper": row["upper"], "accuracy": row["accuracy"]}
    named |= {f"method/{name}": value for name, value in row["methods"].items()}
    named |= {f"layer/{layer['name']}": layer["upper"] for layer in row["layers"]}
    named |= {f"jacobian/{name}": value for name, value in (row["jacobian"] or {}).items()}
    return {name: float(value) for name, value in named.items() if isinstance(value, int | float)}


def _on_cpu(net: nn.Module) -> nn.Module:
    """The module itself where it is there; else a copy, for training goes on with the original."""
    import copy

    tensors = [*net.parameters(), *net.buffers()]
    return net if all(one.device.type == "cpu" for one in tensors) else copy.deepcopy(net).cpu()


def to_tensorboard(writer: Any) -> Log:
    """For a torch.utils.tensorboard.SummaryWriter."""

    def log(values: Values, step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return log


def to_mlflow(run_id: str | None = None) -> Log:
    """For the active run of MLflow, or the one named."""

    def log(values: Values, step: int) -> None:
        import mlflow

        mlflow.log_metrics(values, step=step, run_id=run_id)

    return log


def to_wandb(run: Any) -> Log:
    """For a run of Weights & Biases."""
    return lambda values, step: run.log(values, step=step)


def lightning_callback(watch: Smoothness) -> Any:
    """A Lightning Callback: `Trainer(callbacks=[lightning_callback(watch)])` measures after every epoch (`watch.every`: of
    how many) and gives the values to the module's own loggers."""
    from importlib import import_module

    try:
        base: Any = import_module("lightning.pytorch").Callback
    except ImportError:
        base = import_module("pytorch_lightning").Callback

    class SmoothnessCallback(base):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            values = watch(pl_module, trainer.global_step) or {}
            for logger in trainer.loggers if values else ():
                logger.log_metrics({f"{watch.prefix}{name}": v for name, v in values.items()}, step=trainer.global_step)

    return SmoothnessCallback()
