"""Capture: every gate trips, equal functions have equal fingerprints, the graph computes what the module computes."""

from __future__ import annotations

import copy
import time

import pytest
import torch
import torch.nn.functional as F
from captured import evaluate
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import lipcert
from lipcert.load.capture import export, gates
from lipcert.load.capture.capture import capture, constants
from lipcert.load.capture.decompose import KEPT, OWN, table
from lipcert.load.capture.trace import trace
from lipcert.load.fingerprint import same_steps
from lipcert.load.read import read
from lipcert.load.source import Source
from lipcert.terms.errors import RefusedModel, UsageError


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Scaled(nn.Module):
    """y = w x with one stored number."""

    def __init__(self, weight: float):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(weight))

    def forward(self, x):
        return self.w * x


def captured(module: nn.Module, shape=(1, 4), **options):
    return capture(read(module, input_shape=shape, **options))


def operators(result) -> list[str]:
    return [str(node.target) for node in result.program.graph.nodes if node.op == "call_function"]


# Gate 1


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("n", torch.zeros(()))

    def forward(self, x):
        self.n.add_(1)
        return x * self.n


class TrainedNorm(nn.BatchNorm1d):
    """BatchNorm that cannot be put into eval mode."""

    def train(self, mode: bool = True):
        return super().train(True)


def test_gate_1_changed_buffers() -> None:
    with pytest.raises(RefusedModel, match="changed by every call"):
        captured(TrainedNorm(4), (2, 4))
    with pytest.raises(UsageError, match="n: changed by every call"):  # an input, once it is held
        captured(Counter(), (1, 4))


def test_a_changed_input_is_read_as_a_function() -> None:
    def double(x):
        x.mul_(2)
        return x

    result = captured(Of(double))
    gates.gate_no_mutation(result.program)
    x = torch.randn(1, 4)
    assert torch.equal(evaluate(result, x), 2 * x)


def test_gate_1_changed_inputs() -> None:
    with pytest.raises(RefusedModel, match="writes into its own input"):
        gates.gate_no_mutation(
            torch.export.export(Of(lambda x: x.mul_(2)), (torch.zeros(4),)).run_decompositions(table())
        )


# Gate 2


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.dropout(x, 0.5, training=True),
        lambda x: x + torch.rand(4),
        lambda x: x + torch.randn_like(x),
        lambda x: torch.bernoulli(x.sigmoid()),
        lambda x: x + torch.empty(4),
        lambda x: F.rrelu(x, training=True),
    ],
)
def test_gate_2_not_repeatable(function) -> None:
    with pytest.raises(RefusedModel, match=r"random|nothing wrote"):
        captured(Of(function))


@pytest.mark.parametrize("function", [lambda x: x[x > 0], lambda x: torch.nonzero(x), lambda x: x * x.sum().item()])
def test_gate_2_values_and_shapes_of_data(function) -> None:
    with pytest.raises(RefusedModel, match=r"data|tensor"):
        captured(Of(function))


def test_indexing_by_position_is_no_dynamic_shape() -> None:
    assert "aten.index.Tensor" in operators(captured(Of(lambda x: x[:, [2, 0]])))


# Gate 3


class Remembers(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


def test_gate_3_state_outside_buffers() -> None:
    with pytest.raises(RefusedModel, match="two captures of the model differ"):
        captured(Remembers())


class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.Linear(3, 3), None

    def forward(self, x):
        self.last = self.inner(x)
        return self.last + self.inner.weight[0]


def test_what_a_trace_leaves_behind_stays_out_of_the_module() -> None:
    """The second capture is by our own trace, whose tensors have no values."""
    module = Keeps().eval().requires_grad_(False)
    assert bool(
        torch.isfinite(lipcert.load(module, input_shape=(1, 3)).graph.evaluate(torch.ones(1, 3).double())).all()
    )
    assert export.traced_alike(export.exported(module, torch.zeros(1, 3), users=False), module, torch.zeros(1, 3))
    assert module.last is None or not module.last.is_meta


def test_same_steps_can_fail() -> None:
    """Of the same constants in another order and under other names; not of others, nor of other steps."""
    a, b = torch.ones(3), torch.full((3,), 2.0)
    equal, equal_too = a.clone(), b.clone()

    def steps(function, *held):
        module = Of(function).eval()
        for place, tensor in enumerate(held):
            module.register_buffer(f"held_{place}", tensor)
        program = trace(module, torch.zeros(1, 3))
        return program.graph, program.constants

    def first(x):
        return (x + a) * b

    with torch.no_grad():
        assert same_steps(*steps(first), *steps(lambda x: (x + equal) * equal_too, equal_too, equal))
        for other in (
            lambda x: (x + b) * a,
            lambda x: (x + a) * a,
            lambda x: (a + x) * b,
            lambda x: (x + a) + b,
            lambda x: (x + a) * b + 0,
            lambda x: x + a,
            lambda x: (x + a[:1]) * b,
            lambda x: (x + a.double()).float() * b,
            lambda x: torch.add(x, a, alpha=2) * b,
        ):
            assert not same_steps(*steps(first), *steps(other))
            assert not same_steps(*steps(other), *steps(first))


def test_fingerprint_is_of_the_function_not_of_names() -> None:
    class Renamed(Scaled):
        def __init__(self):
            nn.Module.__init__(self)
            self.other = nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            return self.other * x

    same = captured(Scaled(2.0)).fingerprint
    assert same == captured(Renamed()).fingerprint
    for other in (Scaled(2.0000002), Scaled(-2.0), Scaled(2.0).double(), Of(lambda x: 2 * x)):
        assert captured(other).fingerprint != same
    assert captured(Scaled(2.0), (1, 5)).fingerprint != same


# Gate 4


def test_gate_4_branch_on_data() -> None:
    with pytest.raises(RefusedModel, match="branches on"):
        captured(Of(lambda x: x * 10 if x.sum() > 0 else x * -10))


def test_gate_4_cond() -> None:
    with pytest.raises(RefusedModel, match=r"nested graph|control flow"):
        captured(Of(lambda x: torch.cond(x.sum() > 0, lambda y: y * 10, lambda y: y * -10, (x,))))


def test_gate_4_symbolic_shape() -> None:
    dynamic = {0: torch.export.Dim("batch", min=2, max=8)}
    program = torch.export.export(nn.Linear(4, 2), (torch.zeros(3, 4),), dynamic_shapes=(dynamic,))
    with pytest.raises(RefusedModel, match=r"not fixed|depends on the data"):
        gates.gate_static(program)


def test_gate_4_custom_operator() -> None:
    library = torch.library.Library("lipcert_test", "FRAGMENT")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
    torch.library.register_fake("lipcert_test::twice", torch.empty_like, lib=library)
    with pytest.raises(RefusedModel, match="custom"):
        captured(Of(lambda x: torch.ops.lipcert_test.twice(x)))


# Other limits


def test_gate_size() -> None:
    with pytest.raises(RefusedModel, match="entries lipcert treats"):
        captured(Of(lambda x: x + torch.zeros(10**6, 10**6).sum()))


def test_long_chains_end_in_a_result_or_a_limit(monkeypatch) -> None:
    chain = nn.Sequential(*[nn.ReLU() for _ in range(400)])
    assert len(operators(captured(chain))) == 400
    monkeypatch.setattr(gates, "NODE_LIMIT", 300)
    with pytest.raises(RefusedModel, match="402 nodes; lipcert treats up to 300"):
        captured(chain)


@pytest.mark.parametrize("depth", [2000])
def test_deep_nesting_is_no_recursion_error(depth) -> None:
    module: nn.Module = nn.ReLU()
    for _ in range(depth):
        module = nn.Sequential(module)
    with pytest.raises(RefusedModel, match=r"deep|copied"):
        captured(module)


def test_several_outputs_ask_for_a_name() -> None:
    module = Of(lambda x: {"logits": 2 * x, "aux": x.sum()})
    with pytest.raises(UsageError, match=r"2 outputs.*--output-name"):
        captured(module)
    with pytest.raises(UsageError, match=r"choose one of logits .* aux"):
        captured(module, output_name="nothing")
    assert operators(captured(module, output_name="logits"))[-1] == "aten.mul.Tensor"
    assert operators(captured(module, output_name="1"))[-1].startswith("aten.sum")


def test_no_tensor_out() -> None:
    with pytest.raises((UsageError, RefusedModel)):
        captured(Of(lambda x: 3.0))


def test_quiet_and_quick(capfd) -> None:
    module = nn.Sequential(nn.Linear(2, 100), nn.ReLU(), nn.Linear(100, 1))
    captured(module, (1, 2))
    started = time.process_time()
    captured(module, (1, 2))
    print(f"capture of a small MLP: {time.process_time() - started:.2f} s")
    out, err = capfd.readouterr()
    assert err == ""
    assert out.startswith("capture of a small MLP")


# The user's object


def test_the_users_module_is_left_alone() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)).train()
    calls = []
    module[0].register_forward_hook(lambda *_: calls.append(1))
    module(torch.randn(8, 4)).sum().backward()
    state = copy.deepcopy(module.state_dict())
    grads = [parameter.grad.clone() for parameter in module.parameters()]
    calls.clear()
    captured(module)
    assert module.training
    assert all(child.training for child in module.children())
    assert not calls or len(module[0]._forward_hooks) == 1  # a hook may run on the copy, which has it too
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    for parameter, grad in zip(module.parameters(), grads, strict=True):
        assert parameter.requires_grad
        assert torch.equal(parameter.grad, grad)


def test_modules_need_a_shape() -> None:
    with pytest.raises(UsageError, match="input_shape"):
        read(nn.Linear(4, 2))
    with pytest.raises(UsageError, match="real-valued"):
        read(nn.Linear(4, 2), input_shape=torch.zeros(1, 4, dtype=torch.long))


def test_wrong_shape_is_a_refusal_in_one_line() -> None:
    with pytest.raises(RefusedModel) as caught:
        captured(nn.Linear(4, 2), (1, 5))
    assert "torch.export cannot follow" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_odd_dtypes(dtype) -> None:
    result = captured(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).to(dtype))
    assert result.source.example.dtype == dtype
    assert {tensor.dtype for tensor in constants(result.program).values()} == {dtype}
    assert result.source.references[0].evaluate(torch.randn(3, 1, 4, dtype=torch.float64).numpy()).shape == (3, 1, 2)


# What is captured computes the same


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        return self.a(torch.relu(self.a(self.a(x)))) - x


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0]


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 5, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0]


class Detached(nn.Module):
    def forward(self, x):
        return x + 100 * x.detach()


class NoGrad(nn.Module):
    def forward(self, x):
        with torch.no_grad():
            y = torch.relu(x)
        return x + y


def warmed(module: nn.Module, *shape: int) -> nn.Module:
    module.train()
    for _ in range(3):
        module(torch.randn(*shape))
    return module


class ChannelsLast(nn.Module):
    """Pooled to 1 x 1 as torch does it there, by as_strided."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 5, 2), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.pool(y).flatten(1)


class Strided(nn.Module):
    """Axes turned, or entries read twice."""

    def __init__(self, size: tuple[int, ...], stride: tuple[int, ...]):
        super().__init__()
        self.size, self.stride = size, stride

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x.as_strided(self.size, self.stride)


def test_strides_that_name_each_entry_once() -> None:
    x = torch.randn(4, 6).double()
    graph = lipcert.load(Strided((1, 3, 2), (6, 1, 3)), input_shape=(1, 2, 3)).graph
    assert torch.equal(graph.evaluate(x), 2 * x.reshape(4, 2, 3).transpose(1, 2).flatten(1))
    for size, stride in (((1, 3, 3), (6, 1, 1)), ((1, 2, 2), (6, 1, 3)), ((6,), (1,))):
        with pytest.raises(RefusedModel, match="as_strided"):
            lipcert.load(Strided(size, stride), input_shape=(1, 2, 3))


ZOO = {
    "shared weights": (Shared(), (1, 4)),
    "weight_norm": (parametrizations.weight_norm(nn.Linear(4, 3)), (1, 4)),
    "spectral_norm": (warmed(parametrizations.spectral_norm(nn.Linear(4, 3)), 2, 4), (1, 4)),
    "batchnorm": (warmed(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), 4, 3, 6, 6), (1, 3, 6, 6)),
    "instance norm": (warmed(nn.InstanceNorm2d(3, affine=True, track_running_stats=True), 4, 3, 6, 6), (1, 3, 6, 6)),
    "instance norm of the sample": (nn.Sequential(nn.Conv2d(3, 2, 1), nn.InstanceNorm2d(2)), (1, 3, 4, 4)),
    "channels last": (ChannelsLast(), (1, 3, 5, 4)),
    "lstm": (Recurrent(), (1, 3, 4)),
    "gru": (Gated(), (1, 3, 4)),
    "detach": (Detached(), (1, 4)),
    "no_grad": (NoGrad(), (1, 4)),
    "attention": (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), (1, 3, 4)),
    "circular": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (1, 2, 5, 5)),
    "reflect": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (1, 2, 5, 5)),
    "same": (nn.Conv2d(2, 3, 4, padding="same"), (1, 2, 5, 5)),
    "transposed": (nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1), (1, 2, 5, 5)),
    "bilinear": (nn.Upsample(scale_factor=1.7, mode="bilinear"), (1, 2, 5, 5)),
    "bilinear, corners": (nn.Upsample(size=(7, 9), mode="bilinear", align_corners=True), (1, 2, 5, 5)),
    "bicubic": (nn.Upsample(scale_factor=2, mode="bicubic"), (1, 2, 5, 5)),
    "nearest": (nn.Upsample(scale_factor=1.5, mode="nearest"), (1, 2, 5, 5)),
    "nearest-exact": (nn.Upsample(scale_factor=1.5, mode="nearest-exact"), (1, 2, 5, 5)),
    "linear1d": (nn.Upsample(scale_factor=2, mode="linear"), (1, 2, 5)),
    "trilinear": (nn.Upsample(scale_factor=2, mode="trilinear"), (1, 2, 3, 3, 3)),
    "rrelu": (nn.RReLU(), (1, 4)),
    "prelu": (nn.PReLU(4), (1, 4)),
    "glu": (nn.GLU(), (1, 4)),
    "lerp": (Of(lambda x: torch.lerp(x, torch.ones(4), 0.3)), (1, 4)),
    "pixel shuffle": (nn.PixelShuffle(2), (1, 4, 3, 3)),
    "max pool": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), (1, 2, 6, 6)),
    "slice assignment": (Of(lambda x: torch.cat([x, x]).index_fill(0, torch.tensor([1]), 0.5)), (1, 4)),
    "rms norm": (nn.RMSNorm(4), (1, 4)),
    "group norm": (nn.GroupNorm(2, 4), (1, 4, 3)),
}  # fmt: skip


@pytest.mark.every(2)
@pytest.mark.parametrize("name", ZOO)
def test_captured_graph_computes_what_the_module_computes(name) -> None:
    module, shape = ZOO[name]
    result = captured(module, shape)
    for _ in range(3):
        x = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(evaluate(result, x), module.eval()(x), rtol=1e-4, atol=1e-5)


def test_the_comparison_above_can_fail() -> None:
    module, other = Scaled(2.0), Scaled(2.02)
    x = torch.randn(1, 4)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(evaluate(captured(other), x), module(x), rtol=1e-4, atol=1e-5)


# The vocabulary


def test_kept_operators_stay_and_rewritten_ones_go() -> None:
    samples = {
        "aten.linear.default": nn.Linear(4, 2),
        "aten.silu.default": nn.SiLU(),
        "aten.mish.default": nn.Mish(),
        "aten.softplus.default": nn.Softplus(),
        "aten.hardswish.default": nn.Hardswish(),
        "aten.hardsigmoid.default": nn.Hardsigmoid(),
        "aten.celu.default": nn.CELU(),
        "aten.glu.default": nn.GLU(),
        "aten.gelu.default": nn.GELU(),
        "aten.hardtanh.default": nn.ReLU6(),
        "aten.leaky_relu.default": nn.RReLU(),
        "aten._prelu_kernel.default": nn.PReLU(),
        "aten._softmax.default": nn.Softmax(-1),
        "aten._log_softmax.default": nn.LogSoftmax(-1),
        "aten.rms_norm.default": nn.RMSNorm(4),
        "aten.native_layer_norm.default": nn.LayerNorm(4),
        "aten.logsumexp.default": Of(lambda x: torch.logsumexp(x, -1)),
        "aten.matmul.default": Of(lambda x: torch.ones(3, 1) @ x),
        "aten.log_sigmoid_forward.default": nn.LogSigmoid(),
        "aten.constant_pad_nd.default": nn.ConstantPad1d(1, 0.0),
    }
    for operator, module in samples.items():
        assert operator in operators(captured(module)), operator
    assert not set(OWN) & set(KEPT)


def test_sources_of_other_readers_work_too() -> None:
    result = capture(Source(nn.Linear(4, 2).double().eval(), torch.zeros(1, 4).double(), "onnx", "x", "y"))
    assert operators(result) == ["aten.linear.default"]
