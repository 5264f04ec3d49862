"""Tampered certificates: whatever makes a claim false or a file inconsistent is rejected, with the place."""

from __future__ import annotations

import base64
import copy
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from lipcert import bound, verify
from lipcert.load.model import Model, load
from lipcert.methods.cplip import CplipBound
from lipcert.methods.problem import Problem
from lipcert.proofs.check import check
from lipcert.proofs.file import Certificate, digest, from_bytes
from lipcert.tasks.certify import certify
from lipcert.terms.errors import CertificateRejected
from lipcert.terms.query import Norm, Output

MOONS = Path(__file__).resolve().parents[2] / "examples" / "two_moons.onnx"
Where = tuple[str | int, ...]


@dataclass(frozen=True)
class Case:
    """A genuine certificate and the model it is about. `lower`: an attained value, so no claim below it is true."""

    text: str
    model: Model
    lower: float
    weights: tuple[Tensor, ...] = ()  # of a ReLU network, for the slow oracle

    @property
    def fields(self) -> dict[str, Any]:
        return json.loads(self.text)

    def rejection(self, text: str) -> CertificateRejected | None:
        """None: the certificate `text` is accepted."""
        try:
            certificate = from_bytes(text.encode())
            found = check(certificate, self.model.graph, self.model.info)
        except CertificateRejected as rejected:
            return rejected
        assert found.value <= certificate.claim
        return None


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    torch.manual_seed(1)
    mlp = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))
    conv = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3))
    maps = nn.Sequential(
        nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4), nn.ReLU(), nn.Linear(4, 3)
    )
    head = nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 3), nn.Softmax(-1))
    units = {"mean": [0.5, -0.25], "std": [0.25, 0.3]}
    asked: dict[str, tuple[nn.Module, dict[str, Any], dict[str, Any]]] = {
        "mlp lipsdp": (mlp, {}, {"methods": ["lipsdp"]}),
        "mlp layer 2-0": (mlp, {}, {"methods": ["lipsdp-layer"], "output": "2-0"}),
        "mlp product": (mlp, {}, {"methods": ["product"], "norm": "1->2"}),
        "mlp cplip": (mlp, {}, {"methods": ["cplip"]}),
        "conv cplip": (conv, units, {"methods": ["cplip"], "norm": "2->inf"}),
        "mlp absolute": (mlp, {}, {"methods": ["absolute"], "norm": "inf"}),
        "conv lipsdp": (conv, units, {"methods": ["lipsdp-layer"], "output": "1"}),
        "maps torus": (maps, units, {"methods": ["lipsdp-torus"]}),
        "mlp weighted": (mlp, {}, {"methods": ["lipsdp-norms"], "norm": "inf->1"}),
        "conv product": (conv, units, {"methods": ["product"], "norm": "inf"}),
        "head lipsdp": (head, {}, {"methods": ["lipsdp"]}),
        "head product": (head, {}, {"methods": ["product"]}),
    }
    folder = tmp_path_factory.mktemp("genuine")
    found = {}
    for name, (module, options, question) in asked.items():
        shape = (1, 2, 4, 4) if module in (conv, maps) else (1, 4)
        model = load(module, input_shape=shape, **options)
        file = folder / name
        if question["methods"] == ["cplip"]:
            norm = Norm.parse(question.get("norm", "2"))
            certify(file, [CplipBound().run(Problem(model.graph, norm))], model.graph, model.info, norm, Output())
        else:
            bound(model, certificate=file, **question)
        lower = bound(model, **{**question, "methods": ["sampled"]}).lower
        assert lower is not None
        weights = tuple(w.detach().double() for w in module.parameters() if w.ndim == 2) if module is mlp else ()
        found[name] = Case(file.read_text(), model, lower, weights)
    return found


def test_genuine_ones_are_accepted(cases: dict[str, Case]) -> None:
    for name, case in cases.items():
        assert case.rejection(case.text) is None, name
        assert case.lower <= case.fields["claim"]


# Single fields, the digest of the proof left as it was: everything but a claim that stays true is rejected.


def leaves(value: Any, where: Where = ()) -> Iterator[tuple[Where, Any]]:
    """Every value of a JSON document, containers included."""
    yield where, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from leaves(item, (*where, key))


def put(fields: Any, where: Where, value: Any) -> Any:
    """A copy with another value at `where`."""
    if not where:
        return value
    out = copy.deepcopy(fields)
    inner = out
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    return out


def others(value: Any, rng: random.Random) -> list[Any]:
    """Values that are none of JSON's spellings of `value`, of the same type and of others."""
    strange: list[Any] = [None, True, [], {}, "", "x", -1, 0.5, 10**400, math.nan, math.inf, -math.inf]
    if isinstance(value, float):
        strange += [-value, value / 2, value * (1 - 1e-6), 0.0, -0.0, 5e-324, str(value), int(value), [value]]
        strange += [value * 2, 1e308, 2.0**501, 2.0**-501, rng.uniform(0, value)]
    if isinstance(value, int) and not isinstance(value, bool):
        strange += [value + 1, value - 1, float(value), str(value), 2**60, rng.randrange(10**6)]
    if isinstance(value, str):
        place = rng.randrange(len(value)) if value else 0
        strange += [
            value + "x",
            value[:-1],
            value.upper(),
            [value],
            "1",
            "inf",
            "layer",
            "output",
            "3",
            "0-0",
            "vector",
        ]
        strange += [value[:place] + rng.choice("0a/=~") + value[place + 1 :]]
    if isinstance(value, list):
        strange += [[*value, value[-1]] if value else [1], value[:-1], value[::-1], [None, *value], {"0": 1}]
    if isinstance(value, dict):
        strange += [{**value, "more": 1}, {**value, "": None}, list(value), dict(list(value.items())[1:])]
        strange += [{k: v for k, v in value.items() if k != gone} for gone in value]
    return [other for other in strange if type(other) is not type(value) or other != value]


def single_field_mutations(case: Case, rng: random.Random) -> Iterator[tuple[Where, str]]:
    fields = case.fields
    for where, value in leaves(fields):
        for other in others(value, rng):
            raised = where == ("claim",) and type(other) is float and math.isfinite(other) and other > value
            if not raised:
                yield where, json.dumps(put(fields, where, other))


def test_single_field_mutations_are_rejected(cases: dict[str, Case]) -> None:
    rng, tried, kinds = random.Random(0), 0, Counter[str]()
    for name, case in cases.items():
        for where, text in single_field_mutations(case, rng):
            rejected = case.rejection(text)
            assert rejected is not None, f"{name}: accepted with {where} changed: {text[:2000]}"
            tried += 1
            kinds[rejected.place] += 1
    assert tried >= 500
    assert len(kinds) > 50  # no single test of the reader catches them all


def test_a_raised_claim_is_true_and_accepted(cases: dict[str, Case]) -> None:
    for case in cases.values():
        for claim in (case.fields["claim"] * 1.5, 1e300):
            assert case.rejection(json.dumps(put(case.fields, ("claim",), claim))) is None


def test_place_is_named(cases: dict[str, Case]) -> None:
    case = cases["mlp lipsdp"]
    wanted = {
        ("model", "sha256"): ("f" * 64, "model.sha256"),
        ("model", "input_shape", 1): (5, "model.input_shape"),
        ("model", "std"): ([0.5], "model.std"),
        ("norm", "output"): ("inf", "digest"),
        ("norm", "input"): ("3", "norm.input"),
        ("scope", "output"): ("7", "digest"),
        ("scope", "region"): ("box", "scope.region"),
        ("claim",): (math.nan, "file"),
        ("proof", "multipliers", 1, "count"): (6, "proof.multipliers[1].count"),
        ("proof", "multipliers", 0, "float64"): ("AAAA", "proof.multipliers[0].count"),
        ("proof", "rho"): (-1.0, "proof.rho"),
        ("digest",): ("0" * 64, "digest"),
    }
    for where, (value, place) in wanted.items():
        rejected = case.rejection(json.dumps(put(case.fields, where, value)))
        assert rejected is not None
        assert rejected.place == place
        assert place in str(rejected)


def test_repeated_keys_are_rejected(cases: dict[str, Case]) -> None:
    """A reader that takes the last of two and a reader that takes the first would see two certificates."""
    for case in cases.values():
        for key in ('"format"', '"claim"', '"sha256"', '"kind"', '"output"'):
            at = case.text.index(f"{key}:")
            rejected = case.rejection(f"{case.text[:at]}{key}: null, {case.text[at:]}")
            assert rejected is not None
            assert rejected.reason == "this field stands twice"


def test_damage_is_found(cases: dict[str, Case]) -> None:
    """Truncated anywhere, or with bytes changed: rejected, unless what is read is the same or has a larger claim."""
    rng = random.Random(1)
    for case in cases.values():
        genuine = from_bytes(case.text.encode())
        data = case.text.rstrip()
        for _ in range(40):
            assert case.rejection(data[: rng.randrange(len(data))]) is not None
        for _ in range(80):
            at = rng.randrange(len(data))
            text = data[:at] + chr(rng.randrange(32, 127)) + data[at + 1 :]
            if case.rejection(text) is None:
                read = from_bytes(text.encode())
                assert replace(read, claim=genuine.claim) == genuine
                assert read.claim >= genuine.claim


def test_certificates_of_other_networks_are_rejected(cases: dict[str, Case]) -> None:
    for name, case in cases.items():
        for other, wrong in cases.items():
            same = case.model.graph.fingerprint() == wrong.model.graph.fingerprint()
            assert (wrong.rejection(case.text) is None) == same, (name, other)


# Someone who also recomputes the digest: the proof decides.


def resealed(fields: dict[str, Any]) -> str:
    return json.dumps({**fields, "digest": digest(fields["norm"], fields["scope"], fields["proof"])})


def test_other_norms_and_scopes_are_proved_anew(cases: dict[str, Case]) -> None:
    """With the digest recomputed: accepted only where the other claim is true as well."""
    accepted = Counter[str]()
    for name, case in cases.items():
        for where in (("norm", "input"), ("norm", "output"), ("scope", "output")):
            for value in ("1", "2", "inf", "0", "9", "vector", "0-1", "1-1", "pairs", "-1", "01", "9" * 5000):
                fields = put(case.fields, where, value)
                if fields == case.fields or case.rejection(resealed(fields)) is not None:
                    continue
                norm, scope = f"{fields['norm']['input']}->{fields['norm']['output']}", fields["scope"]["output"]
                lower = bound(case.model, methods=["sampled"], norm=norm, output=scope).lower
                assert lower is not None
                assert lower <= fields["claim"], (name, where, value)
                accepted[name] += 1
    assert accepted["mlp lipsdp"] == 3  # its proof for the vector also proves each of the three entries


def rows(fields: dict[str, Any]) -> list[Tensor]:
    found = (base64.b64decode(row["float64"]) for row in fields["proof"]["multipliers"])
    return [torch.frombuffer(bytearray(data), dtype=torch.float64).clone() for data in found]


def with_rows(fields: dict[str, Any], multipliers: list[Tensor]) -> dict[str, Any]:
    table = [
        {"count": row.numel(), "float64": base64.b64encode(row.numpy().astype("<f8").tobytes()).decode()}
        for row in multipliers
    ]
    return put(fields, ("proof", "multipliers"), table)


def bent(multipliers: list[Tensor], rng: random.Random) -> list[Tensor]:
    """Other multipliers: scaled as a whole, by layer, by neuron; one of them changed; made equal; random."""
    g = torch.Generator().manual_seed(rng.randrange(2**31))
    kind = rng.randrange(6)
    if kind == 0:
        return [row * 10 ** rng.uniform(-3, 3) for row in multipliers]
    if kind == 1:
        return [row * 10 ** rng.uniform(-1, 1) for row in multipliers]
    if kind == 2:
        return [row * torch.exp(0.3 * torch.randn(row.shape, generator=g, dtype=row.dtype)) for row in multipliers]
    if kind == 3:
        out = [row.clone() for row in multipliers]
        row = rng.choice(out)
        row[rng.randrange(len(row))] *= rng.choice([0.1, 0.5, 0.99, 1.01, 2, 10, 1e100, 1e-100])
        return out
    if kind == 4:
        return [row.mean().expand_as(row).clone() for row in multipliers]
    return [torch.rand(row.shape, generator=g, dtype=row.dtype) + 1e-3 for row in multipliers]


def bent_constants(fields: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    out = copy.deepcopy(fields)
    table = out["proof"]["constants"]
    for row in table if rng.random() < 0.3 else [rng.choice(table)]:
        for key in row:
            if key != "node":
                row[key] *= rng.choice([0.0, 0.5, 0.99, 1.0, 1.01, 2.0])
    return out


def forged(case: Case, rng: random.Random) -> dict[str, Any]:
    """Another proof in the same file."""
    fields = case.fields
    kind = fields["proof"]["kind"]
    if kind == "lmi":
        fields = with_rows(fields, bent(rows(fields), rng))
        fields["proof"]["rho"] *= rng.choice([1.0, 1.0, 0.5, 3.0, 1e10, 1e-10])
        fields["proof"]["last"] = rng.choice(["input", "output"])
        fields["proof"]["grouping"] = rng.choice(["neuron", "channel", "layer"])
    if kind == "torus":
        fields = with_rows(fields, bent(rows(fields), rng))
        fields["proof"]["rho"] *= rng.choice([1.0, 1.0, 0.5, 3.0, 1e10, 1e-10])
        fields["proof"]["maps"] = rng.choice([1, 1, 1, 0, 2])
    if kind == "weighted":
        fields = copy.deepcopy(fields)
        for k, part in enumerate(fields["proof"]["parts"]):
            made = with_rows({"proof": part}, bent(rows({"proof": part}), rng))["proof"]
            made["input_weights"] = rng.choice(
                [part["input_weights"], part["input_weights"], part["output_weights"], None]
            )
            made["rho"] *= rng.choice([1.0, 1.0, 0.5, 3.0, 1e10, 1e-10])
            fields["proof"]["parts"][k] = made
    if kind in ("chain", "cplip"):
        fields = bent_constants(fields, rng)
    if kind == "cplip" and rng.random() < 0.3:
        fields["proof"]["passed"] = [i for i in fields["proof"]["passed"] if rng.random() < 0.5]
    return fields


def test_false_claims_are_rejected_whatever_the_proof(cases: dict[str, Case]) -> None:
    """The claim is below an attained value, so no proof can show it."""
    rng, tried = random.Random(2), 0
    for name, case in cases.items():
        for _ in range(40):
            fields = forged(case, rng)
            fields["claim"] = case.lower * rng.choice([1 - 1e-9, 0.99, 0.5, 1e-6, 0.0])
            if fields["proof"]["kind"] in ("chain", "cplip") and rng.random() < 0.5:
                for key in case.fields["proof"]["constants"][-1]:
                    if key != "node":
                        fields["proof"]["constants"][-1][key] = fields["claim"]
            assert case.rejection(resealed(fields)) is not None, f"{name}: {fields}"
            tried += 1
    assert tried >= 400


def test_what_is_proved_never_lies_below_what_is_attained(cases: dict[str, Case]) -> None:
    """With a claim that admits anything, the value proved from forged numbers is still an upper value."""
    rng, accepted = random.Random(3), 0
    for case in cases.values():
        for _ in range(40):
            fields = put(forged(case, rng), ("claim",), 1e300)
            try:
                found = check(from_bytes(resealed(fields).encode()), case.model.graph, case.model.info)
            except CertificateRejected:
                continue
            assert found.value >= case.lower
            accepted += 1
    assert accepted >= 40  # the test is about these


def smallest_eigenvalue(weights: tuple[Tensor, ...], multipliers: list[Tensor], last: str, rho: float) -> float:
    """Slow oracle for 3-layer ReLU networks: the LipSDP matrix written out (Fazlyab et al. 2019), scaled to unit diagonal.

    |x|^2 s_x + 2 sum lambda z (z - v) - 2 y W_3 z_2 + |y|^2 s_y with v_1 = W_1 x, v_2 = W_2 z_1.
    """
    first, second, third = weights
    n, m, k, o = first.shape[1], first.shape[0], second.shape[0], third.shape[0]
    s_x, s_y = (rho, 1.0) if last == "input" else (1.0, rho)
    matrix = torch.zeros(n + m + k + o, n + m + k + o, dtype=torch.float64)
    x, a, b, y = slice(0, n), slice(n, n + m), slice(n + m, n + m + k), slice(n + m + k, None)
    matrix[x, x].fill_diagonal_(s_x)
    matrix[y, y].fill_diagonal_(s_y)
    matrix[a, a], matrix[b, b] = torch.diag(2 * multipliers[0]), torch.diag(2 * multipliers[1])
    matrix[a, x], matrix[b, a] = -multipliers[0][:, None] * first, -multipliers[1][:, None] * second
    matrix[y, b] = -third
    scale = matrix.diagonal().rsqrt()
    return float(torch.linalg.eigvalsh(scale[:, None] * matrix * scale[None, :])[0])  # reads the lower triangle


def agrees(case: Case, fields: dict[str, Any], smallest: Callable[..., float] = smallest_eigenvalue) -> bool:
    """Whether the verdict on `fields` is that of the oracle; eigenvalues near 0 may go either way."""
    low = smallest(case.weights, rows(fields), fields["proof"]["last"], fields["claim"] ** 2)
    if abs(low) < 1e-9:
        return True
    return (case.rejection(resealed(fields)) is None) == (low > 0)


def test_verdict_is_that_of_the_matrix(cases: dict[str, Case]) -> None:
    case, rng, verdicts = cases["mlp lipsdp"], random.Random(4), Counter[bool]()
    for _ in range(150):
        fields = with_rows(case.fields, bent(rows(case.fields), rng))
        fields["claim"] *= rng.choice([0.99, 1.0, 1.001, 1.1, 2.0, 5.0])
        assert agrees(case, fields), fields
        verdicts[case.rejection(resealed(fields)) is None] += 1
    assert min(verdicts[True], verdicts[False]) >= 10


def test_the_oracle_can_disagree(cases: dict[str, Case]) -> None:
    """A matrix with a wrong last block row says other things than the checker."""

    def wrong(weights: tuple[Tensor, ...], *rest: Any) -> float:
        return smallest_eigenvalue((*weights[:2], 2 * weights[2]), *rest)

    assert agrees(cases["mlp lipsdp"], cases["mlp lipsdp"].fields)
    raised = put(cases["mlp lipsdp"].fields, ("claim",), cases["mlp lipsdp"].fields["claim"] * 1.1)
    assert agrees(cases["mlp lipsdp"], raised)
    assert not agrees(cases["mlp lipsdp"], raised, wrong)


# The model.


def with_last_layer_times(factor: float, path: Path) -> Path:
    model = onnx.load(MOONS)
    tensor = next(t for t in reversed(model.graph.initializer) if list(t.dims) in ([1, 100], [100, 1]))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * tensor_type(factor), tensor.name))
    onnx.save(model, path)
    return path


def tensor_type(factor: float) -> Any:
    import numpy as np

    return np.float32(factor)


@pytest.mark.parametrize("method", ["lipsdp-layer", "product"])
def test_tampered_weights(method: str, tmp_path: Path) -> None:
    """Rejected by the hash; with the hashes recomputed, by the proof exactly where the claim has become false."""
    file = tmp_path / "c"
    bound(load(MOONS), methods=[method], certificate=file)
    fields = json.loads(file.read_text())
    for factor, accepted in ((1.001, False), (2.0, False), (0.5, True)):
        tampered = with_last_layer_times(factor, tmp_path / f"{factor}.onnx")
        model = load(tampered)
        report = verify(file, tampered)
        assert (report.exit_code, report.summary["place"]) == (1, "model.sha256")
        only_file = put(fields, ("model", "sha256"), model.info["sha256"])
        case = Case(file.read_text(), model, 0.0)
        rejected = case.rejection(json.dumps(only_file))
        assert (rejected is None) == accepted
        if rejected is not None:
            assert rejected.place.startswith(("claim", "proof"))


def test_what_the_certificate_says_of_reading_is_its_fault(tmp_path: Path) -> None:
    """The file is the one named, but it cannot be read as the certificate wants: rejected, not a usage error."""
    file = tmp_path / "c"
    bound(load(MOONS), methods=["absolute"], certificate=file)
    fields = json.loads(file.read_text())
    for where, value in (
        (("model", "input_shape"), [1, 3]),
        (("model", "input_shape"), []),
        (("model", "input_shape"), [0]),
        (("model", "input_shape"), [1, 2**40]),
        (("model", "input_name"), "nothing"),
        (("model", "output_name"), "nothing"),
        (("model", "mean"), [1.0, 2.0, 3.0, 4.0, 5.0]),
        (("model", "std"), [0.0]),
        (("model", "std"), [-1.0, 2.0]),
        (("model", "std"), [0.5]),
    ):
        file.write_text(json.dumps(put(fields, where, value)))
        report = verify(file, MOONS)
        assert report.exit_code == 1, (where, value, report.summary)
        assert report.summary["verdict"] == "rejected"
        # other units are another network, of which the proof shows less
        assert report.summary["place"].startswith("claim" if value == [0.5] else "model")


def test_an_accepting_checker_would_be_noticed(cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch) -> None:
    """A checker that trusts the claim: the tests of this file see it."""

    class Gullible(Case):
        def rejection(self, text: str) -> CertificateRejected | None:
            try:
                certificate: Certificate = from_bytes(text.encode())
            except CertificateRejected as rejected:
                return rejected
            return None if certificate.claim >= 0 else CertificateRejected("claim", "negative")

    fooled = {name: Gullible(**vars(case)) for name, case in cases.items()}
    for test in (
        test_single_field_mutations_are_rejected,
        test_false_claims_are_rejected_whatever_the_proof,
        test_verdict_is_that_of_the_matrix,
    ):
        with pytest.raises(AssertionError):
            test(fooled)
