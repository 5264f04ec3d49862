"""Genuine certificates are accepted, through files and through the command line; the format is strict and exact."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from jsonschema import Draft202012Validator
from torch import Tensor, nn
from two import run, two

import lipcert
from lipcert import bound, verify
from lipcert.load.model import Model, load
from lipcert.methods.cplip import CplipBound
from lipcert.methods.problem import Problem
from lipcert.proofs.chain import links
from lipcert.proofs.check import check
from lipcert.proofs.claimed import question_of
from lipcert.proofs.file import Certificate, Network, digest, from_bytes, read, to_text
from lipcert.proofs.kinds import Chain, Lmi, Nonnegative
from lipcert.proofs.kinds import Cplip as CplipProof
from lipcert.proofs.segments import cut
from lipcert.tasks.certify import certify, least_with_proof
from lipcert.terms.errors import CertificateRejected, UnreadableError, UsageError
from lipcert.terms.query import Box, Norm, Output
from lipcert.terms.result import Bound

PACKAGE = Path(lipcert.__file__).parent
MOONS = Path(__file__).resolve().parents[2] / "examples" / "two_moons.onnx"
SCHEMA = json.loads(resources.files("lipcert.report").joinpath("schema/lipcert.report-1.json").read_text())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.last(h + torch.relu(self.inner(h)))


class Gated(nn.Module):
    """sigmoid(u) tanh(w): Lipschitz because both factors are bounded."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.w = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.u(x)) * torch.tanh(self.w(x))


def conv(*tail: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), *tail)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3)), (1, 4)),
    "conv": (lambda: conv(nn.Conv2d(3, 2, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)), (1, 2, 4, 4)),
    "residual": (Residual, (1, 5)),
    "sigmoid": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 3)), (1, 4)),
    "gelu": (lambda: nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, 3)), (1, 4)),
    "leaky": (lambda: nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(0.9), nn.Linear(6, 3)), (1, 4)),
    "max pool": (lambda: conv(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)), (1, 2, 4, 4)),
    "overlapping max pool": (lambda: conv(nn.MaxPool2d(3, 1), nn.Flatten(), nn.Linear(12, 3)), (1, 2, 4, 4)),
    "softmax": (lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), nn.Softmax(-1)), (1, 4)),
    "affine": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)), (1, 4)),
}
UPPER = ("product", "absolute", "lipsdp", "lipsdp-layer")
WITHOUT = {("softmax", "absolute")}  # refused: softmax is not elementwise


@pytest.fixture(scope="session")
def networks() -> dict[str, tuple[nn.Module, Model]]:
    torch.manual_seed(0)
    found = {}
    for name, (make, shape) in NETWORKS.items():
        module = make()
        found[name] = module, load(module, input_shape=shape)
    return found


@pytest.fixture(scope="session")
def written(
    networks: dict[str, tuple[nn.Module, Model]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """The certificate file of one method for one network, made once."""
    folder, made = tmp_path_factory.mktemp("certificates"), {}

    def write(name: str, method: str, output: str = "vector", norm: str = "2") -> Path:
        key = name, method, output, norm
        if key not in made:
            path = folder / f"{len(made)}.json"
            report = bound(networks[name][1], methods=[method], output=output, norm=norm, certificate=path)
            assert report.upper is not None, f"{key}: {report.results}"
            assert (path.exists(), report.warnings) == (True, []), key
            row = report.to_dict()["results"][0]
            assert row["certificate"] == str(path)
            assert report.upper <= read(path).claim <= report.upper * (1 + 1e-8)
            made[key] = path
        return made[key]

    return write


@pytest.mark.every(3)
@pytest.mark.parametrize("method", UPPER)
@pytest.mark.parametrize("name", NETWORKS)
def test_genuine(
    name: str, method: str, networks: dict[str, tuple[nn.Module, Model]], written: Callable[..., Path]
) -> None:
    if (name, method) in WITHOUT:
        return
    path = written(name, method)
    report = verify(path, networks[name][1])
    assert (report.summary["verdict"], report.exit_code) == ("accepted", 0), report.summary
    claim = read(path).claim
    assert report.upper == claim
    assert report.summary["proved"] <= claim
    assert list(Draft202012Validator(SCHEMA).iter_errors(report.to_dict())) == []


@pytest.mark.every(4)
@pytest.mark.parametrize("method", UPPER)
@pytest.mark.parametrize("output", ["0", "2-1"])
@pytest.mark.parametrize("name", ["mlp", "conv", "softmax"])
def test_genuine_of_one_output(
    name: str,
    output: str,
    method: str,
    networks: dict[str, tuple[nn.Module, Model]],
    written: Callable[..., Path],
) -> None:
    if (name, method) in WITHOUT:
        return
    path = written(name, method, output)
    assert verify(path, networks[name][1]).exit_code == 0


@pytest.mark.every(3)
@pytest.mark.parametrize("method", ["product", "absolute"])
@pytest.mark.parametrize("norm", ["1", "inf", "1->2", "2->inf", "inf->1", "inf->2"])
def test_genuine_in_other_norms(
    norm: str, method: str, networks: dict[str, tuple[nn.Module, Model]], written: Callable[..., Path]
) -> None:
    for name in ("mlp", "max pool"):
        assert verify(written(name, method, norm=norm), networks[name][1]).exit_code == 0


@pytest.mark.parametrize("method", UPPER)
def test_genuine_with_normalisation(method: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, path = NETWORKS["conv"][0](), tmp_path / "c"
    units = {"mean": (0.5, -0.25), "std": (0.25, 0.3)}
    model = load(module, input_shape=(1, 2, 4, 4), **units)
    bound(model, methods=[method], certificate=path)
    report = verify(path, module)  # shape, names and normalisation come from the file
    assert (report.exit_code, report.model["units"]["std"]) == (0, [0.25, 0.3])
    plain = load(module, input_shape=(1, 2, 4, 4))
    other = load(module, input_shape=(1, 2, 4, 4), mean=units["mean"], std=(0.25, 0.31))
    assert verify(path, plain).summary["place"] == "model.mean"
    assert verify(path, other).summary["place"] == "model.std"


ASKED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # what is said of the claim rightly, wrongly, and the place of the difference
    "norm": ({"norm": "2"}, {"norm": "inf"}, "norm"),
    "norms": ({"norm": "2->2"}, {"norm": "2->1"}, "norm"),
    "output": ({"output": "vector"}, {"output": "0"}, "scope.output"),
    "input": ({"input_name": "x"}, {"input_name": "z"}, "model.input_name"),
    "shape": ({"input_shape": (1, 2)}, {"input_shape": (1, 3)}, "model.input_shape"),
    "output name": ({"output_name": "y"}, {"output_name": "z"}, "model.output_name"),
    "std": ({"std": (1e6,)}, {"std": (1.0,)}, "model.std"),
    "stds": ({"std": (1e6, 1e6), "mean": (0.0,)}, {"std": (1e6, 1.0)}, "model.std"),
    "mean": ({"mean": (0.0, 0.0), "std": (1e6,)}, {"mean": (1.0,), "std": (1e6,)}, "model.mean"),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_the_verifier_says_is_compared(name: str, tmp_path: Path) -> None:
    """relu(diag(1, 2) x) in units of a million: "L <= 2e-06" is true of that question alone."""
    net, path = two(tmp_path), tmp_path / "c"
    bound(load(net, std=[1e6]), methods=["product"], certificate=path)
    right, wrong, place = ASKED[name]
    accepted, rejected = verify(path, net, **right), verify(path, net, **wrong)
    assert (accepted.exit_code, rejected.exit_code) == (0, 1)
    assert rejected.summary["place"] == place
    assert "was asked for" in rejected.summary["reason"]
    chosen = accepted.summary["prover_chose"]
    assert ("units" in chosen) == ("std" not in right)
    assert ("norm" in chosen) == ("norm" not in right)


def test_the_whole_question_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    net, path = two(tmp_path), tmp_path / "c"
    bound(load(net, std=[1e6]), methods=["product"], certificate=path)
    assert run("verify", path, net, "--quiet") == 0
    shown = " ".join(capfd.readouterr().out.split())
    for words in ("raw units", "1000000.0", "x, shape 1x2", "y, the whole vector", "l2 -> l2", "the whole input space"):
        assert words in shown
    assert shown.count("the prover's choice") == 4
    said = ("--std", "1e6", "--norm", "2", "--output", "vector", "--input-name", "x", "--input-shape", "1,2")
    assert run("verify", path, net, "--quiet", *said, "--output-name", "y") == 0
    assert "the prover's choice" not in capfd.readouterr().out
    for wrong in (("--std", "1"), ("--mean", "0.5"), ("--norm", "1"), ("--output", "1-0"), ("--output-name", "z")):
        assert run("verify", path, net, "--quiet", *wrong) == 1
    assert "REJECTED" in capfd.readouterr().out


def test_the_question_of_a_certificate_is_that_of_the_model(tmp_path: Path) -> None:
    model, path = load(two(tmp_path), std=[2.0]), tmp_path / "c"
    bound(model, methods=["product"], output="1-0", certificate=path)
    asked = model.question("verify", Norm(), output="1-0")
    assert question_of(read(path)) in (asked, replace(asked, graph=""))


@pytest.mark.parametrize("kind", ["torchscript", "pt2"])
def test_genuine_of_files_of_torch(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, file = NETWORKS["mlp"][0]().eval(), tmp_path / f"m.{kind}"
    if kind == "torchscript":
        torch.jit.trace(module, torch.zeros(1, 4)).save(file)
    else:
        torch.export.save(torch.export.export(module, (torch.zeros(1, 4),)), file)
    bound(load(file, input_shape=(1, 4)), methods=["lipsdp"], certificate=tmp_path / "c")
    report = verify(tmp_path / "c", file)
    assert report.exit_code == 0, report.summary


@pytest.mark.parametrize("norm", ["2", "inf", "1->2"])
def test_genuine_of_cplip(norm: str, networks: dict[str, tuple[nn.Module, Model]], tmp_path: Path) -> None:
    for name in ("mlp", "conv", "residual", "gelu", "leaky", "softmax", "overlapping max pool", "affine"):
        model, asked = networks[name][1], Norm.parse(norm)
        result = CplipBound().run(Problem(model.graph, asked))
        assert isinstance(result, Bound)
        certify(tmp_path / "c", [result], model.graph, model.info, asked, Output())
        assert verify(tmp_path / "c", model).exit_code == 0, name


def test_least_upper_value_is_the_one_written(networks: dict, tmp_path: Path) -> None:
    report = bound(networks["mlp"][1], methods=list(UPPER), certificate=tmp_path / "c")
    certificate = read(tmp_path / "c")
    least = min(r.value for r in report.results)
    assert certificate.proof.method == "lipsdp"
    assert least <= certificate.claim <= least * (1 + 1e-8)
    assert [r["method"] for r in report.to_dict()["results"] if r["certificate"]] == ["lipsdp"]


def test_nothing_is_written_without_a_proof(tmp_path: Path) -> None:
    """A product of two bounded signals: finite on the range of the signals only, which has no certificate."""
    torch.manual_seed(0)
    model = load(Gated(), input_shape=(1, 3))
    report = bound(model, methods=["product"], certificate=tmp_path / "c")
    assert report.upper is not None
    assert not (tmp_path / "c").exists()
    assert "no certificate" in report.warnings[-1]


def test_a_less_value_without_proof_is_said() -> None:
    with_proof = Bound("a", "upper", "proved", 3.0, proof=Nonnegative("a"))
    without, numeric = Bound("b", "upper", "proved", 2.0), Bound("c", "upper", "numeric", 1.0, proof=Nonnegative("c"))
    assert least_with_proof([numeric, with_proof, without]) == (with_proof, without)


def test_scopes_without_certificate_are_usage(networks: dict, tmp_path: Path) -> None:
    model = networks["mlp"][1]
    one = torch.ones(1, 4)
    with pytest.raises(UsageError, match="certificate: "):
        bound(model, certificate=tmp_path / "c", region=Box(-one, one), output="pairs")


# The format.

NETWORK = Network("0" * 64, "x", 'ö "y"\n', (1, 4), (), (0.1, -0.0), None)
EXTREMES = (2.0**-500, 1 / 3, 2.0**500)
PROOFS = (
    Lmi("lipsdp", "channel", "output", 1e-3, (EXTREMES, (), (1.0,))),
    Chain("product", ((3, {"1": 5e-324, "inf": 1.7976931348623157e308}), (4, {"1": 0.1 + 0.2, "inf": 0.0}))),
    CplipProof("cplip", (1, 3), ((2, {"2": 0.1}), (7, {"2": 3.0}))),
    Nonnegative("absolute"),
)


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: type(proof).__name__)
def test_text_is_exact_and_deterministic(proof: object) -> None:
    made = Certificate(NETWORK, Norm("1", "inf"), Output("pair", 3, 5), 0.1 + 0.2, proof)
    text = to_text(made)
    assert from_bytes(text.encode()) == made
    assert to_text(from_bytes(text.encode())) == text
    assert text.isascii()


@pytest.mark.parametrize("kind", ["lmi", "chain", "cplip", "nonnegative"])
def test_format_1_is_still_read(networks: dict, written: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    """It names the graph as lowered and positions in it: they are compared."""
    model = networks["mlp"][1]
    graph, norm = model.graph, Norm("2", "2")
    if kind == "cplip":
        certify(tmp_path / "c", [CplipBound().run(Problem(graph, norm))], graph, model.info, norm, Output())
        fields = json.loads((tmp_path / "c").read_text())
    else:
        method = {"lmi": "lipsdp", "chain": "product", "nonnegative": "absolute"}[kind]
        fields = json.loads(written("mlp", method).read_text())
    proof = fields["proof"]
    signals = graph
    if kind == "cplip":
        proof["passed"] = [graph.nonlinear[k] for k in proof["passed"]]
        signals = cut(graph, proof["passed"], {"2"}, dict)
    for k, row in zip(links(signals), proof.get("constants", []), strict=kind in ("chain", "cplip")):
        row["node"] = k

    def accepted(fields: dict[str, Any]) -> None:
        fields["digest"] = digest(fields["norm"], fields["scope"], fields["proof"])
        check(from_bytes(json.dumps(fields).encode()), graph, model.info)

    old = fields | {"format": "lipcert.certificate/1", "model": fields["model"] | {"graph": graph.fingerprint()}}
    accepted(old)
    with pytest.raises(CertificateRejected, match="graph"):
        accepted(old | {"model": fields["model"] | {"graph": "f" * 64}})
    with pytest.raises(CertificateRejected, match="graph"):
        accepted(old | {"model": fields["model"]})
    if kind in ("chain", "cplip"):
        with pytest.raises(CertificateRejected, match=r"signals|passed"):
            accepted(old | {"format": "lipcert.certificate/2", "model": fields["model"]})


def test_digest_is_what_the_specification_says() -> None:
    """sha256 of the canonical JSON, written by hand for one proof."""
    text = b'[{"input":"1","output":"inf"},{"output":"3","region":"global"},{"kind":"nonnegative"}]'
    done = subprocess.run(["sha256sum"], input=text, capture_output=True, check=True)
    found = digest({"output": "inf", "input": "1"}, {"region": "global", "output": "3"}, {"kind": "nonnegative"})
    assert found == done.stdout.decode().split()[0]


@pytest.mark.parametrize(
    ("data", "place", "reason"),
    [
        (b"", "line 1", "not JSON"),
        (b"\xff", "file", "utf-8"),
        (b"[]", "file", "an object"),
        (b"[" * 100_000, "file", "deep"),
        (b'{"format": NaN}', "file", "NaN"),
        (b'{"format": -Infinity}', "file", "-Infinity"),
        (b'{"claim": 1' + b"0" * 5000 + b"}", "file", "digits"),
        (b'{"format": 1, "format": 1}', "format", "twice"),
        (b'{"format": "lipcert.certificate/2"}', "model", "missing"),
    ],
)
def test_malformed(data: bytes, place: str, reason: str) -> None:
    with pytest.raises(CertificateRejected) as caught:
        from_bytes(data)
    assert place in caught.value.place
    assert reason in caught.value.reason


def test_a_file_too_large_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lipcert.proofs.file.MAX_BYTES", 100)
    (tmp_path / "c").write_bytes(b" " * 101)
    with pytest.raises(CertificateRejected, match="larger"):
        read(tmp_path / "c")
    with pytest.raises(UnreadableError):
        read(tmp_path / "missing")


# Trust.

FORBIDDEN = ("methods", "sdp", "regions", "sampling", "tasks")


def reached(start: str) -> set[str]:
    """Modules of the package that `start` imports, directly or not, by their syntax trees (lazy imports too)."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        path = PACKAGE / f"{name.replace('.', '/')}.py"
        file = path if path.is_file() else PACKAGE / name.replace(".", "/") / "__init__.py"
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names] + [str(node.module)]
            for full in names:
                part = full.removeprefix("lipcert.")
                if part != full and (
                    (PACKAGE / f"{part.replace('.', '/')}.py").is_file() or (PACKAGE / part.replace(".", "/")).is_dir()
                ):
                    waiting.append(part)
    return seen


def test_the_checker_imports_no_bound_and_no_solver() -> None:
    found = reached("proofs.check")
    assert {name for name in found if name.split(".")[0] in FORBIDDEN} == set()
    needed = {"lmi", "chain", "nonnegative", "file"}
    assert {f"proofs.{name}" for name in needed} | {"rigor.matrix_norms", "rigor.rounding"} <= found
    code = "import sys, lipcert.proofs.check; print(*sorted(m for m in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not any(f"lipcert.{name}" in loaded for name in FORBIDDEN)
    assert not {"cvxpy", "scs", "clarabel", "scipy.optimize"} & set(loaded)


def test_forbidden_imports_would_be_seen() -> None:
    assert {"methods.lipsdp", "sdp.solve", "regions.forward.slope"} <= reached("tasks.bound")


def test_the_format_is_light() -> None:
    code = "import sys, lipcert.proofs.file; print(*({'torch', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_proofs_do_not_depend_on_the_order_of_sums(networks: dict, written: Callable[..., Path]) -> None:
    """Another machine adds up in another order: multipliers moved by a few rounding errors still prove the claim."""
    generator = torch.Generator().manual_seed(0)
    for name in ("mlp", "conv", "residual", "gelu", "softmax", "max pool"):
        certificate = read(written(name, "lipsdp"))
        for _ in range(5):
            rows = (torch.tensor(row, dtype=torch.float64) for row in certificate.proof.multipliers)
            noise = (row * (1 + 4e-15 * torch.randn(row.shape, generator=generator, dtype=row.dtype)) for row in rows)
            noisy = tuple(tuple(row.tolist()) for row in noise)
            moved = Certificate(
                certificate.network,
                certificate.norm,
                certificate.output,
                certificate.claim,
                Lmi("lipsdp", certificate.proof.grouping, certificate.proof.last, certificate.proof.rho, noisy),
            )
            check(moved, networks[name][1].graph, networks[name][1].info)


# The command line.


def shell(*arguments: str) -> subprocess.CompletedProcess[str]:
    return forked.lipcert(*arguments)


def test_command_line(tmp_path: Path) -> None:
    file, model = str(tmp_path / "moons.cert"), str(MOONS)
    options = ("--method", "lipsdp", "--mean", "0.5", "--std", "0.25,2", "--output", "0", "-q")
    made = shell("bound", model, *options, "--certificate", file, "--json", "-")
    assert made.returncode == 0, made.stderr
    upper = json.loads(made.stdout)["upper"]

    done = shell("verify", file, model, "--json", "-", "-q")
    report = json.loads(done.stdout)
    assert (done.returncode, report["command"], report["summary"]["verdict"]) == (0, "verify", "accepted")
    assert list(Draft202012Validator(SCHEMA).iter_errors(report)) == []
    assert upper <= report["upper"] <= upper * (1 + 1e-8)
    assert any("lmi" in line for line in report["summary"]["trusted"])

    fields = json.loads(Path(file).read_text())
    fields["claim"] = upper * 0.999
    Path(file).write_text(json.dumps(fields))
    done = shell("verify", file, model, "--json", str(tmp_path / "r.json"), "-q")
    report = json.loads((tmp_path / "r.json").read_text())
    assert (done.returncode, report["status"], report["upper"]) == (1, "refused", None)
    assert (report["summary"]["verdict"], report["summary"]["place"]) == ("rejected", "claim")
    assert list(Draft202012Validator(SCHEMA).iter_errors(report)) == []
    assert "REJECTED" in done.stdout
    assert "claim" in done.stdout


@pytest.mark.parametrize(
    ("certificate", "model", "status"),
    [
        ("missing", "moons", 2),
        ("genuine", "missing", 2),
        ("genuine", "text", 2),
        ("genuine", "digits", 1),
        ("text", "moons", 1),
        ("truncated", "moons", 1),
    ],
)
def test_statuses(certificate: str, model: str, status: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from lipcert.cli.main import main

    bound(load(MOONS), methods=["absolute"], certificate=tmp_path / "genuine")
    (tmp_path / "text").write_text("no model, no certificate")
    (tmp_path / "truncated").write_text((tmp_path / "genuine").read_text()[:-40])
    models = {"moons": MOONS, "digits": MOONS.with_name("digits.onnx")}
    with pytest.raises(SystemExit) as stopped:
        main(["verify", str(tmp_path / certificate), str(models.get(model, tmp_path / model)), "-q"])
    assert stopped.value.code == status
    out, err = capfd.readouterr()
    assert ("REJECTED" in out) == (status == 1)
    assert "Traceback" not in err
