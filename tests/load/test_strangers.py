"""Files from strangers: every spelling of an attack that we know, in one table, with canaries.

A row is refused, or read without effect: no file appears, nothing is printed, the state of the process is as it was.
"""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from lipcert.load.archive import open_archive
from lipcert.load.read import kind_of, read
from lipcert.load.script_archive import rebuilt
from lipcert.terms.errors import LipcertError, UnreadableError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("w", torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.w


def members(module: nn.Module) -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module), buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def written(path: Path, held: dict[str, bytes] | list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in held.items() if isinstance(held, dict) else held:
            archive.writestr(zipfile.ZipInfo(f"net/{name}"), data)
    return path


@pytest.fixture(scope="module")
def honest() -> dict[str, bytes]:
    return members(Net())


def code_of(held: dict[str, bytes]) -> str:
    return next(name for name in held if name.startswith("code/") and name.endswith(".py"))


TYPE = "__torch__.test_strangers.Net"
HEAD = """class Net(Module):
  __parameters__ = []
  __buffers__ = ["w", ]
  w : Tensor
  training : bool
  _is_full_backward_hook : Optional[bool]
"""
FORWARD = f"  def forward(self: {TYPE},\n    x: Tensor) -> Tensor:\n"

# Lines before `return x` of forward. MARK stands for the path of the canary.
IN_FORWARD = [
    'torch.save(1, "MARK")',
    'torch . save(1, "MARK")',
    'torch.\\\n    save(1, "MARK")',
    'torch\\\n.save(1, "MARK")',
    'torch.save (1, "MARK")',
    '(torch).save(1, "MARK")',
    '((torch)).save(1, "MARK")',
    '(torch.save)(1, "MARK")',
    'ops.aten.save(1, "MARK")',
    'ops. aten. save(1, "MARK")',
    '(ops).aten.save(1, "MARK")',
    '(ops.aten).save(1, "MARK")',
    't = torch\n    t.save(1, "MARK")',
    't = ops\n    t.aten.save(1, "MARK")',
    't = ops.aten\n    t.save(1, "MARK")',
    's = torch.save\n    s(1, "MARK")',
    't, u = torch, 1\n    t.save(1, "MARK")',
    't = (torch, 1)\n    (t)[0].save(1, "MARK")',
    't = [torch]\n    (t)[0].save(1, "MARK")',
    'getattr(torch, "save")(1, "MARK")',
    'getattr(ops, "aten").save(1, "MARK")',
    's = getattr(torch, "save")\n    s(1, "MARK")',
    'getattr(self, "save")(x, "MARK")',
    'x.save("MARK")',
    '(x).save("MARK", )',
    'torch.mul(x, 2).save("MARK")',
    'torch.ops.aten.save(1, "MARK")',
    'torch.serialization.save(1, "MARK")',
    'torch._C.save(1, "MARK")',
    'torch.jit.save(self, "MARK")',
    'torch.ops.load_library("MARK")',
    'ops.load_library("MARK")',
    '__import__("os").system("touch MARK")',
    'open("MARK", "w")',
    'eval("1")',
    'exec("1")',
    'x = torch.from_file("MARK", True, 4)',
    'x = torch. from_file("MARK", True, 4)',
    'x = torch.from_file("MARK", shared=True, size=4)',
    'x = ops.aten.from_file("MARK", True, 4, dtype=6)',
    'torch.save(1, "MARK") if True else None',
    '[torch.save(1, "MARK") for i in range(1)]',
    '(lambda: torch.save(1, "MARK"))()',
    'if True:\n      torch.save(1, "MARK")',
    'if False:\n      pass\n    else:\n      torch.save(1, "MARK")',
    'while False:\n      torch.save(1, "MARK")',
    'for i in range(1):\n      torch.save(1, "MARK")',
    'def f():\n      torch.save(1, "MARK")\n    f()',
    'with torch.save(1, "MARK"):\n      pass',
    'try:\n      torch.save(1, "MARK")\n    except:\n      pass',
    'assert torch.save(1, "MARK")',
    'raise torch.save(1, "MARK")',
    'del x; torch.save(1, "MARK")',
    'print(torch.save(1, "MARK"))',
    'print("x", torch.save(1, "MARK"))',
    'torch.warn(torch.format("{}", torch.save(1, "MARK")))',
    'y : int = torch.save(1, "MARK")',
    'y = annotate(torch.save(1, "MARK"), 1)',
    'y = annotate(int, torch.save(1, "MARK"))',
    'y = unchecked_cast(int, torch.save(1, "MARK"))',
    'y = uninitialized(torch.save(1, "MARK"))',
    'y = isinstance(torch.save(1, "MARK"), int)',
    'y = {"a": torch.save(1, "MARK")}',
    'y = {torch.save(1, "MARK"): 1}',
    'y = (torch.save(1, "MARK"),)',
    'y = (x)[torch.save(1, "MARK")]',
    'y = -torch.save(1, "MARK")',
    'y = 1 + torch.save(1, "MARK")',
    'y = torch.add(x, 1, alpha=torch.save(1, "MARK"))',
    'y = f"{torch.save(1, \'MARK\')}"',
    'self.w = torch.save(1, "MARK")',
    'x.w, y = torch.save(1, "MARK"), 1',
    'y = fork(torch.save, 1, "MARK")',
    'torch.wait(fork(self.forward, x))',
    'awaitable(self.forward, x)',
    'torch = self\n    torch.save(1, "MARK")',
    'ops = self',
    'CONSTANTS = self',
    'annotate = self',
    'for torch in range(1):\n      pass',
    '(y := torch.save(1, "MARK"))',
    'y = *torch.save(1, "MARK"),',
    'torch.add(*torch.save(1, "MARK"))',
    'torch.add(**torch.save(1, "MARK"))',
    'x @= torch.save(1, "MARK")',
    'x[0] = torch.save(1, "MARK")',
    'y = x[torch.save(1, "MARK"):]',
    't\u043erch.save(1, "MARK")',  # a Cyrillic o
    '\U0001d42d\U0001d428\U0001d42b\U0001d41c\U0001d421.save(1, "MARK")',  # bold letters: Python normalises them to torch
    'torch.\uff53ave(1, "MARK")',  # a full-width s
    'torch\x0c.save(1, "MARK")',
    'torch\t.\tsave(1, "MARK")',
    'torch\r.save(1, "MARK")',
    'x = x # \\\n    torch.save(1, "MARK")',
    '"""a\n    """; torch.save(1, "MARK")',
    'y = "\\"; torch.save(1, \\"MARK\\")"; torch.save(1, "MARK")',
    'y = b"x"',
    'y = u"x"',
    'torch.manual_seed(0)',
    'torch.seed()',
    'torch.set_grad_enabled(True)',
    'torch.set_num_threads(7)',
    'torch.rand([4])',
    'x = torch.bernoulli(x)',
    'x = torch.normal_(x)',
    'torch.set_(x, x)',
    'torch.set_data(x, x)',
    'torch.resize_(x, [1000000])',
    'torch.cuda(x)',
    'torch.pin_memory(x)',
    'torch.backward(x)',
    'y : List[float] = x.tolist()',
    'y = annotate(List[float], x.tolist())',
    'ops.prim.Print("text of the file")',
    'ops.prim.rpc_sync("a", "b")',
    'ops.prim.TimePoint()',
    'ops.quantized.linear(x, x, 1., 0)',
    'ops.mkldnn.anything(x)',
    'ops.profiler._record_function_enter("a")',
    'ops.aten._print("text of the file")',
    'ops.inductor.resize_storage_bytes_(x, 100)',
    '__torch__.torch.save(1, "MARK")',
    '__torch__.torch.classes.a.B.__new__(__torch__.torch.classes.a.B)',
    f'y = {TYPE}.__class__',
    'y = self.__class__',
    'y = x.__dict__',
    'x.__reduce__()',
    'self.__setstate__(1)',
    'import os',
    'from os import system',
    'global torch',
    'nonlocal y',
    'yield x',
    'await x',
    'return torch.save(1, "MARK")',
    'y = 99999999999999999999999999',
    'y = ...',
    'y = torch',
    'y = undefined',
    'CONSTANTS.c0.save("MARK")',
    'y = CONSTANTS.__class__',
    "(" * 300 + "x" + ")" * 300 + '.save("MARK")',
]  # fmt: skip

# The whole member. FORWARD ends in the line `return x`.
WHOLE = [
    HEAD + "  def __setstate__(self, state: int) -> None:\n    torch.save(1, \"MARK\")\n" + FORWARD + "    return x\n",
    HEAD + "  def __setstate__ (self, state: int) -> None:\n    pass\n" + FORWARD + "    return x\n",
    HEAD + "  def \\\n  __setstate__(self, state: int) -> None:\n    pass\n" + FORWARD + "    return x\n",
    HEAD + "  def __getstate__(self) -> int:\n    return 1\n" + FORWARD + "    return x\n",
    HEAD + '  k : Final[int] = torch.save(1, "MARK")\n' + FORWARD + "    return x\n",
    HEAD + '  k : torch.save(1, "MARK")\n' + FORWARD + "    return x\n",
    HEAD + '  torch.save(1, "MARK")\n' + FORWARD + "    return x\n",
    HEAD + '  __annotations__[torch.save(1, "MARK")] = int\n' + FORWARD + "    return x\n",
    HEAD + '  __forward_pre_hooks__ = ["hook", ]\n  def hook(self, x: Tensor) -> None:\n    torch.save(1, "MARK")\n' + FORWARD + "    return x\n",
    HEAD + FORWARD.replace("x: Tensor)", 'x: Tensor, y: int=torch.save(1, "MARK"))') + "    return x\n",
    HEAD + FORWARD.replace("x: Tensor)", 'x: torch.save(1, "MARK"))') + "    return x\n",
    HEAD + FORWARD.replace("-> Tensor", '-> torch.save(1, "MARK")') + "    return x\n",
    HEAD + FORWARD.replace("x: Tensor)", "torch: Tensor)") + "    return torch\n",
    HEAD + FORWARD.replace("x: Tensor)", "*x)") + "    return x\n",
    HEAD + '  @torch.save(1, "MARK")\n' + FORWARD + "    return x\n",
    '@torch.save(1, "MARK")\n' + HEAD + FORWARD + "    return x\n",
    HEAD.replace("(Module)", '(torch.save(1, "MARK"))') + FORWARD + "    return x\n",
    HEAD.replace("(Module)", '(Module, metaclass=torch.save(1, "MARK"))') + FORWARD + "    return x\n",
    HEAD + FORWARD + "    return x\n" + 'torch.save(1, "MARK")\n',
    HEAD + FORWARD + "    return self.helper(x)\n  def helper(self, x: Tensor) -> Tensor:\n    return torch.from_file(\"MARK\", True, 4)\n",
    HEAD + FORWARD + '    return __torch__.test_strangers.f(x, )\ndef f(x: Tensor) -> Tensor:\n  return torch.from_file("MARK", True, 4)\n',
    HEAD + FORWARD + '    _0 = __torch__.test_strangers.f\n    return _0(x, )\ndef f(x: Tensor) -> Tensor:\n  return torch.from_file("MARK", True, 4)\n',
    HEAD + FORWARD + "    return x\n" + HEAD + FORWARD + '    return torch.from_file("MARK", True, 4)\n',
    "class Other(Module):\n  training : bool\n",
    "", "\x00", "class", "\ufeff" + HEAD,
]  # fmt: skip


def state() -> tuple[object, ...]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return environment, torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state().tolist()


@pytest.fixture
def canaries(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Fails where the test left a trace: a file, text, other state of torch or of the process."""
    mark = tmp_path / "mark"
    before = state()
    here = sorted(os.listdir("."))
    yield mark
    assert not mark.exists()
    assert capfd.readouterr() == ("", "")
    assert state() == before
    assert sorted(os.listdir(".")) == here


def refused(path: Path) -> str:
    with pytest.raises(LipcertError) as caught:
        read(path, input_shape=(1, 4))
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("line", IN_FORWARD)
def test_spellings_in_forward(honest, tmp_path, canaries, line) -> None:
    text = HEAD + FORWARD + "    " + line.replace("MARK", str(canaries)) + "\n    return x\n"
    refused(written(tmp_path / "net.pt", honest | {code_of(honest): text.encode()}))


@pytest.mark.parametrize("text", WHOLE)
def test_spellings_around_forward(honest, tmp_path, canaries, text) -> None:
    text = text.replace("MARK", str(canaries))
    refused(written(tmp_path / "net.pt", honest | {code_of(honest): text.encode()}))


@pytest.mark.parametrize(
    "line", ['torch.save(1, "MARK")', 'torch . save(1, "MARK")', 't = torch\n    t.save(1, "MARK")']
)
def test_the_spellings_above_are_real(honest, tmp_path, line) -> None:
    mark = tmp_path / "mark"
    text = HEAD + FORWARD + "    " + line.replace("MARK", str(mark)) + "\n    return x\n"
    torch.jit.load(written(tmp_path / "net.pt", honest | {code_of(honest): text.encode()}))(torch.ones(4))
    assert mark.exists()


HARMLESS = [
    "pass",
    "y = r'\\'; torch.save(1, \"MARK\") # '",  # one raw string
    'print("text of the file", x)',
    'torch.warn("text of the file")',
    'x = x  # torch.save(1, "MARK")',
    'y = "torch.save(1, MARK)"',
    "y = torch.device(\"cuda:7\")",
    "x = torch.to(x, torch.device(\"cuda:7\"), 6)",
]  # fmt: skip


@pytest.mark.parametrize("line", HARMLESS)
def test_harmless_lines_are_no_reason_to_refuse(honest, tmp_path, canaries, line) -> None:
    text = HEAD + FORWARD + "    " + line.replace("MARK", str(canaries)) + "\n    return x\n"
    path = written(tmp_path / "net.pt", honest | {code_of(honest): text.encode()})
    x = torch.arange(4.0)
    assert torch.equal(torch.jit.load(io.BytesIO(rebuilt(open_archive(path))))(x), x)


def test_code_that_nothing_calls_is_left_out(honest, tmp_path) -> None:
    unused = f'  def export(self: {TYPE}) -> None:\n    torch.save(1, "x")\n'
    path = written(
        tmp_path / "net.pt", honest | {code_of(honest): (HEAD + FORWARD + "    return x\n" + unused).encode()}
    )
    copy = rebuilt(open_archive(path))
    assert b"save" not in copy
    assert not hasattr(torch.jit.load(io.BytesIO(copy)), "export")


# Members: names, sizes, pickles


def renamed(held: dict[str, bytes], old: str, new: str) -> dict[str, bytes]:
    return {new if name == old else name: data for name, data in held.items()}


HOSTILE_CODE = (HEAD + FORWARD + '    torch.save(1, "MARK")\n    return x\n').encode()


def member_cases(held: dict[str, bytes]) -> dict[str, object]:
    code = code_of(held)
    return {
        "CODE/": renamed(held, code, code.replace("code/", "CODE/")),
        "Code/ beside code/": held | {code.replace("code/", "Code/") + "x.py": HOSTILE_CODE},
        ".PY": renamed(held, code, code.replace(".py", ".PY")),
        ".Py beside .py": held | {code.replace(".py", ".Py"): HOSTILE_CODE},
        "DATA.PKL": renamed(held, "data.pkl", "DATA.PKL"),
        "DATA/0": renamed(held, "data/0", "DATA/0"),
        "Constants.pkl": renamed(held, "constants.pkl", "Constants.pkl"),
        "twice": [*held.items(), (code, HOSTILE_CODE)],
        "twice, another case": [*held.items(), (code.upper(), HOSTILE_CODE)],
        "twice, data": [*held.items(), ("data/0", b"\0" * 16)],
        "backslash": renamed(held, code, code.replace("/", "\\")),
        "Version": renamed(held, "version", "VERSION"),
        "two versions": held | {".data/version": b"3\n", "version": b"10\n"},
        "no version": {k: v for k, v in held.items() if not k.endswith("version")},
        "version of words": held | {("version" if "version" in held else ".data/version"): b"ten"},
        "big-endian": held | {"byteorder": b"big"},
        "no storage": {k: v for k, v in held.items() if k != "data/0"},
        "short storage": held | {"data/0": held["data/0"][:-4]},
        "empty storage": held | {"data/0": b""},
        "long storage": held | {"data/0": held["data/0"] + b"\0" * 4},
        "no code": {k: v for k, v in held.items() if k != code},
        "latin-1 code": held | {code: held[code] + b"# \xe9\n"},
        "size lie": held | {"data.pkl": held["data.pkl"].replace(b"(K\x04t(", b"(K\x05t(")},
        "stride lie": held | {"data.pkl": held["data.pkl"].replace(b"(K\x01t", b"(K\x02t")},
        "offset lie": held | {"data.pkl": held["data.pkl"].replace(b"K\x00(K\x04t", b"K\x01(K\x04t")},
        "negative stride": held | {"data.pkl": held["data.pkl"].replace(b"(K\x01t", b"(J\xff\xff\xff\xfft")},
        "dtype lie": held | {"data.pkl": held["data.pkl"].replace(b"FloatStorage", b"DoubleStorage")},
        "numel lie": held | {"data.pkl": held["data.pkl"].replace(b"K\x04tQ", b"K\x7ftQ")},
        "numel and size lie": held | {"data.pkl": held["data.pkl"].replace(b"K\x04t", b"K\x7ft")},
        "a call": held | {"data.pkl": b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R."},
        "a call in constants": held | {"constants.pkl": b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R."},
        "state that is no dictionary": held | {"data.pkl": b"\x80\x02c__torch__.test_strangers\nNet\n)\x81K\x01b."},
        "a class without code": held | {"data.pkl": b"\x80\x02c__torch__.test_strangers\nOther\n)\x81}b."},
        "a type tag of code": held
        | {"constants.pkl": b"\x80\x02ctorch.jit._pickle\nrestore_type_tag\n]X\x06\0\0\0eval()\x86R."},
        "two pickles": held | {"data.pkl": held["data.pkl"] * 2},
        "half a pickle": held | {"data.pkl": held["data.pkl"][:100]},
        "a memo of nothing": held | {"data.pkl": b"\x80\x02h\x09."},
        "an empty stack": held | {"data.pkl": b"\x80\x02R."},
    }


MEMBERS = sorted(member_cases(members(Net())))


@pytest.mark.parametrize("case", MEMBERS)
def test_members(honest, tmp_path, canaries, case) -> None:
    held = member_cases(honest)[case]
    assert held != honest
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zipfile, about names written twice
        path = written(tmp_path / "net.pt", held)  # type: ignore[arg-type]
    refused(path)


def test_what_else_an_archive_holds_is_not_handed_on(honest, tmp_path) -> None:
    more = {"model.json": b"{}", "attributes.pkl": b"x", "extra/a.py": b"x", "code/__torch__/a.py.debug_pkl": b"x"}
    path = written(tmp_path / "net.pt", honest | more)
    with zipfile.ZipFile(io.BytesIO(rebuilt(open_archive(path)))) as copy:
        held = {name.partition("/")[2] for name in copy.namelist()}
    assert held == {"version", "data.pkl", "constants.pkl", "data/0", code_of(honest)}


# Things that are no files


def test_pipes_devices_sockets_and_folders_do_not_wait(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for path in (
            tmp_path / "pipe",
            tmp_path / "socket",
            tmp_path,
            Path("/dev/zero"),
            Path("/dev/tty"),
            Path("a\0b"),
        ):
            with pytest.raises(UnreadableError):
                kind_of(path)


def test_onnx_names_that_are_not_text(tmp_path) -> None:
    from onnx import TensorProto, helper

    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])]
    outputs = [helper.make_tensor_value_info("yyyy", TensorProto.FLOAT, [1, 4])]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["yyyy"], name="nnnn")], "g", inputs, outputs)
    data = helper.make_model(graph).SerializeToString()
    for name in (b"yyyy", b"nnnn", b"Relu"):
        (tmp_path / "net.onnx").write_bytes(data.replace(name, b"\xff\xfe\xff\xfe"))
        with pytest.raises(UnreadableError, match="not UTF-8"):
            read(tmp_path / "net.onnx")


# .pt2


def exported() -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(Net(), (torch.zeros(1, 4),)), buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


MODEL, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
IMPORTS = json.dumps([{"__enum__": True, "fqn": "antigravity:x", "name": "x"}])


def nodes_of(model: dict) -> list[dict]:
    return model["graph_module"]["graph"]["nodes"]


def _targets(target: str):
    return lambda model: nodes_of(model)[0].update(target=target)


def _spec(kind: object, context: object):
    tree = json.dumps([1, {"type": kind, "context": context, "children_spec": []}])

    def change(model: dict) -> None:
        model["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = tree

    return change


def _size(text: str):
    def change(model: dict) -> None:
        sizes = model["graph_module"]["graph"]["tensor_values"]["mul"]["sizes"]
        sizes[0] = {"as_expr": {"expr_str": text, "hint": {"as_int": 1}}}

    return change


EXPORTED = {
    **{
        target: (MODEL, _targets(target))
        for target in (
            "torch.ops.aten.from_file.default", "torch.ops.aten.save.default", "torch.ops.aten._print.default",
            "torch.ops.prim.Print.default", "torch.ops.aten.warn.default", "torch.ops.prims._make_token.default",
            "torch.ops.aten.set_.source_Storage", "torch.ops.aten.resize_.default", "torch.ops.aten.manual_seed.default",
            "torch.ops.higher_order.cond", "torch.ops.mylib.op.default", "torch.ops.aten.mul.out", "torch.ops.aten.mul",
            "torch.ops.aten.mul.Tensor.x", "torch.ops.load_library", "torch._C.eval", "os.system", "_operator.call",
            "_operator.setitem", "torch.ops.aten.mul.Tensor\n", "torch.ops.aten.__class__.default", "math.sqrt", "", "\x1b[31m",
        )
    },
    "an import in the pytree": (MODEL, _spec("builtins.dict", IMPORTS)),
    "another container": (MODEL, _spec("collections.defaultdict", "[]")),
    "a tree of another version": (MODEL, lambda m: m["graph_module"]["module_call_graph"][0]["signature"].update(in_spec="[2, {}]")),
    **{
        text: (MODEL, _size(text))
        for text in ("9**9**9", "s0.x", "[1]", "1 if 1 else 1", "(lambda: 1)()", "Symbol('x')()", "Integer(1)(2)", "s0 s1", "s0;1",
                     "Function('f')", "Symbol('os.x')", "Symbol('s0', a=open('MARK','w'))", "-" * 4000 + "1", "'s0'", "1.5", "1e9")
    },
    **{
        f"a {type(value).__name__} at {'.'.join(keys)}": (MODEL, lambda m, keys=keys, value=value: _set(m, keys, value))
        for value in (None, 3, "x", [1], {"a": 1}, True, 1e400)
        for keys in (("graph_module",), ("graph_module", "graph", "nodes"), ("graph_module", "signature", "input_specs"),
                     ("range_constraints",), ("graph_module", "graph", "tensor_values"))
        if not (value == {"a": 1} and keys == ("x",))
    },
    "use_pickle": (WEIGHTS, lambda w: w["config"]["w"].update(use_pickle=True)),
    "use_pickle 1": (WEIGHTS, lambda w: w["config"]["w"].update(use_pickle=1)),
    "a path that climbs": (WEIGHTS, lambda w: w["config"]["w"].update(path_name="../weight_0")),
    "another path": (WEIGHTS, lambda w: w["config"]["w"].update(path_name="weight_9")),
    "a size lie": (WEIGHTS, lambda w: w["config"]["w"]["tensor_meta"].update(sizes=[{"as_int": 5}])),
    "a stride lie": (WEIGHTS, lambda w: w["config"]["w"]["tensor_meta"].update(strides=[{"as_int": 2}])),
    "an offset lie": (WEIGHTS, lambda w: w["config"]["w"]["tensor_meta"].update(storage_offset={"as_int": 1})),
    "a dtype lie": (WEIGHTS, lambda w: w["config"]["w"]["tensor_meta"].update(dtype=8)),
    "a negative stride": (WEIGHTS, lambda w: w["config"]["w"]["tensor_meta"].update(strides=[{"as_int": -1}])),
    "an unknown dtype": (WEIGHTS, lambda w: w["config"]["w"]["tensor_meta"].update(dtype=99)),
    "a sparse layout": (WEIGHTS, lambda w: w["config"]["w"]["tensor_meta"].update(layout=1)),
    "a config of words": (WEIGHTS, lambda w: w.update(config="x")),
    "an entry of words": (WEIGHTS, lambda w: w["config"].update(w="x")),
}  # fmt: skip


def _set(model: dict, keys: tuple[str, ...], value: object) -> None:
    for key in keys[:-1]:
        model = model[key]
    model[keys[-1]] = value


@pytest.fixture(scope="module")
def exported_members() -> dict[str, bytes]:
    return exported()


@pytest.mark.parametrize("case", EXPORTED)
def test_exported(exported_members, tmp_path, canaries, case) -> None:
    member, change = EXPORTED[case]
    value = json.loads(exported_members[member])
    change(value)
    text = json.dumps(value).replace("MARK", str(canaries))
    refused(written(tmp_path / "net.pt2", exported_members | {member: text.encode()}))


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "3", '"x"', "{", "[" * 100_000, '{"graph_module": ' * 50_000, "1" * 6000, "\xff", "\x00"]
)
@pytest.mark.parametrize("member", [MODEL, WEIGHTS])
def test_json_of_other_kinds(exported_members, tmp_path, canaries, text, member) -> None:
    refused(written(tmp_path / "net.pt2", exported_members | {member: text.encode("latin-1")}))


def test_sizes_of_onnx_initialisers(tmp_path) -> None:
    import onnx
    from onnx import TensorProto, helper

    def model(dims: list[int], values: int, field: str) -> Path:
        tensor = TensorProto(name="w", dims=dims, data_type=TensorProto.FLOAT)
        if field == "raw":
            tensor.raw_data = struct.pack(f"{values}f", *[1.0] * values)
        else:
            tensor.float_data.extend([1.0] * values)
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
        graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "g", inputs, outputs, [tensor])
        onnx.save(helper.make_model(graph), tmp_path / "net.onnx")
        return tmp_path / "net.onnx"

    for field in ("raw", "floats"):
        for dims, values in (([4], 3), ([4], 5), ([4], 0), ([2**40], 4), ([-4], 4), ([2**62, 4], 4), ([0, 4], 4)):
            with pytest.raises(LipcertError):
                read(model(dims, values, field))
