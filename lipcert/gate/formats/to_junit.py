"""JUnit XML, as Jenkins and GitLab read it: one test case per rule and report. Violated: failure; not proved: error."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from lipcert.gate.steps import step
from lipcert.gate.verdict import Verdict
from lipcert.terms.printable import printable

KINDS = {"violated": "failure", "not proved": "error"}


def to_junit(verdicts: Sequence[Verdict]) -> str:
    counts = {
        "tests": len(verdicts),
        "failures": sum(v.status == "violated" for v in verdicts),
        "errors": sum(v.status == "not proved" for v in verdicts),
    }
    attributes = {"name": "lipcert gate", **{key: str(value) for key, value in counts.items()}}
    root = ElementTree.Element("testsuites", attributes)
    suite = ElementTree.SubElement(root, "testsuite", attributes)
    for verdict in verdicts:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": _safe(verdict.report or "lipcert gate"), "name": _safe(verdict.rule)}
        )
        if verdict.status in KINDS:
            message = _safe(verdict.message)
            found = ElementTree.SubElement(case, KINDS[verdict.status], {"type": verdict.check, "message": message})
            found.text = message + _samples(verdict) + f"\n{step(verdict.check, verdict.status)}"
        else:
            ElementTree.SubElement(case, "system-out").text = _safe(verdict.message)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _samples(verdict: Verdict) -> str:
    return f"\nsamples: {', '.join(map(str, verdict.samples))}" if verdict.samples else ""


def _safe(text: str) -> str:
    """XML 1.0 has no control characters, not even escaped; ElementTree escapes the rest."""
    return printable(text)
