"""JUnit, SARIF, Markdown and GitHub annotations: snapshots, the public formats, and names that try to break out.

`LIPCERT_SCHEMAS` names a folder with the public sarif-schema-2.1.0.json and junit-10.xsd (of Jenkins' xUnit plugin); with
it (scripts/public_schemas.py fetches them) the files are validated against them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
import xmlschema

from lipcert.cli.main import main
from lipcert.gate.formats.to_github import to_github
from lipcert.gate.formats.to_junit import to_junit
from lipcert.gate.formats.to_markdown import to_markdown
from lipcert.gate.formats.to_sarif import RULES, relative_uri, to_sarif
from lipcert.gate.formats.to_verdicts import to_verdicts, verdict_table
from lipcert.gate.policy import CHECKS
from lipcert.gate.steps import STEPS
from lipcert.gate.verdict import Verdict
from lipcert.terms.version import SITE

GOLDEN = Path(__file__).parent / "golden"
EMITTERS: dict[str, Callable[[list[Verdict]], str]] = {
    "gate.junit.xml": to_junit,
    "gate.sarif.json": to_sarif,
    "gate.md": to_markdown,
    "gate.github.txt": to_github,
    "gate.json": to_verdicts,
    "gate.table.txt": verdict_table,
}
SCHEMAS = os.environ.get("LIPCERT_SCHEMAS")

VERDICTS = [
    Verdict("l2 constant", "max_upper", "met", "upper 7.5 <= 10", "r.json", "models/net.onnx"),
    Verdict("robust", "min_certified_accuracy", "violated", "only 0.5 of 4 samples survive", "a.json", "models/net.onnx", (1, 3)),
    Verdict("typical radius", "min_median_radius", "not proved", "no report answers it"),
]  # fmt: skip
EVIL = "x]]>&<script>alert('1')</script>\"|`*[a](http://e.vil)\x1b[31m\x00\r\n::error::owned%0A @all \u202e\ud800 {0}"
HOSTILE = [Verdict(EVIL, "max_upper", "violated", EVIL, EVIL, EVIL, (1,)), Verdict(EVIL, "field", "not proved", EVIL)]


@pytest.mark.parametrize("name", EMITTERS)
def test_snapshots(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a wanted change: LIPCERT_WRITE_GOLDEN=1 python -m pytest tests/gate/test_emitters.py, and read the difference."""
    monkeypatch.setenv("COLUMNS", "100")
    found = EMITTERS[name](VERDICTS)
    if os.environ.get("LIPCERT_WRITE_GOLDEN") == "1":
        (GOLDEN / name).write_text(found, encoding="utf-8")
    assert found == (GOLDEN / name).read_text(encoding="utf-8")


def test_junit_survives_hostile_names() -> None:
    root = ElementTree.fromstring(to_junit(HOSTILE).encode())
    assert [e.tag for e in root.iter()] == ["testsuites", "testsuite", "testcase", "failure", "testcase", "error"]
    assert "alert('1')" in root[0][0].attrib["name"]
    assert (root.attrib["failures"], root.attrib["errors"], root.attrib["tests"]) == ("1", "1", "2")


def test_sarif_survives_hostile_names() -> None:
    (run,) = json.loads(to_sarif(HOSTILE))["runs"]
    for found in run["results"]:
        assert run["tool"]["driver"]["rules"][found["ruleIndex"]]["id"] == found["ruleId"]
        text = found["message"]["text"]
        assert not re.search(r"(?<!\\)\[[^\]]*(?<!\\)\]\(", text)
        uri = found["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert re.fullmatch(r"[\w.%~/-]+", uri), uri
    prints = {found["partialFingerprints"]["lipcertRule/v1"] for found in run["results"]}
    assert len(prints) == 2


def test_uris_are_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert relative_uri(str(tmp_path / "models" / "a b.onnx")) == "models/a%20b.onnx"
    assert relative_uri("/somewhere/else/net.onnx") == "net.onnx"
    assert relative_uri("../net.onnx") == "net.onnx"
    assert relative_uri(None) == "gate.toml"


def test_annotations_stay_on_their_line() -> None:
    lines = to_github(HOSTILE).splitlines()
    assert len(lines) == 2
    for line in lines:
        command, _, message = line.partition(" ")[2].partition("::")
        assert re.fullmatch(r"file=[^:,]*,title=[^:,]*", command), command
        assert "\x1b" not in line
        assert "%0A" not in message.replace("%250A", "")


def test_markdown_is_one_table_without_html() -> None:
    text = to_markdown(HOSTILE)
    rows = text.splitlines()[4:]
    assert len(rows) == 2
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in rows)
    assert "<" not in text
    assert "`" not in text
    assert "](" not in text
    assert "@" not in text


def test_the_terminal_gets_no_codes() -> None:
    assert not set(verdict_table(HOSTILE)) & {"\x1b", "\x00", "\u202e", "\r"}
    json.loads(to_verdicts(HOSTILE))


@pytest.mark.skipif(SCHEMAS is None, reason="LIPCERT_SCHEMAS names no folder: scripts/public_schemas.py fills one")
@pytest.mark.parametrize("verdicts", [VERDICTS, HOSTILE, []])
def test_public_schemas(verdicts: list[Verdict]) -> None:
    folder = Path(str(SCHEMAS))
    schema = json.loads((folder / "sarif-schema-2.1.0.json").read_text())
    validator = jsonschema.Draft7Validator(schema, format_checker=jsonschema.FormatChecker())
    validator.validate(json.loads(to_sarif(verdicts)))
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(json.loads(to_sarif(verdicts).replace('"tool"', '"tol"')))
    junit = xmlschema.XMLSchema(str(folder / "junit-10.xsd"))
    junit.validate(to_junit(verdicts))
    assert not junit.is_valid(to_junit(verdicts).replace("<testsuite ", "<testsuite x='1' "))


def test_the_job_summary_is_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    (tmp_path / "gate.toml").write_text("[[rule]]\nmax_upper = 1\n")
    (tmp_path / "r.json").write_text("{}")
    with pytest.raises(SystemExit):
        main(["gate", str(tmp_path / "r.json"), "--policy", str(tmp_path / "gate.toml"), "--github"])
    assert summary.read_text().startswith("before\n### lipcert: gate NOT met")
    assert capsys.readouterr().out.startswith("::warning file=")


# What to do


def test_every_rule_says_what_to_do() -> None:
    """In the verdicts, and in SARIF as the rule's help, with the page where more is said."""
    assert set(STEPS) == set(CHECKS) == set(RULES)
    text = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    (run,) = json.loads(to_sarif([]))["runs"]
    for rule in run["tool"]["driver"]["rules"]:
        check = rule["id"].removeprefix("lipcert/")
        assert rule["helpUri"] == f"{SITE}rules/#{check}"
        assert f"\n## {check} {{ #{check} }}\n" in text
        for status in ("violated", "not proved"):
            said = STEPS[check.replace("-", "_")][status]
            assert said in rule["help"]["text"]
            assert said in text
            verdict = Verdict("r", check.replace("-", "_"), status, "m")  # type: ignore[arg-type]
            for emit in (to_sarif, to_verdicts, to_junit):
                assert said.split(":")[0] in emit([verdict])
