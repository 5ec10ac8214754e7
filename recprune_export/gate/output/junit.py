"""Write a check as JUnit XML, which CI servers display: one test case for each gate."""

import re
from pathlib import Path
from xml.etree import ElementTree

from recprune_export.errors import UsageError
from recprune_export.evidence import Verdict
from recprune_export.gate._check import Check
from recprune_export.gate.findings import Finding
from recprune_export.terminal_text import escape_line

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd]")  # characters that XML 1.0 does not allow


def render_junit(check: Check) -> ElementTree.Element:
    """Return the `testsuites` element.

    A failed gate is a failure, a skipped gate is skipped. An undecided gate is an error, unless the user chose
    another verdict for it.
    """
    counts = dict.fromkeys(("failure", "error", "skipped"), 0)
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(suites, "testsuite", name=_clean(f"{check.new} against {check.base}"))
    for finding in check.findings:
        case = ElementTree.SubElement(suite, "testcase", classname="recprune-export.check", name=_clean(finding.gate))
        tag = _tag(finding, check.undecided)
        if tag:
            counts[tag] += 1
            ElementTree.SubElement(case, tag, message=_clean(finding.reason), type=finding.verdict.value)
        else:
            ElementTree.SubElement(case, "system-out").text = _clean(finding.reason)
    totals = {"failures": counts["failure"], "errors": counts["error"], "skipped": counts["skipped"]}
    for name, value in {"tests": len(check.findings), **totals, "time": f"{check.seconds:.3f}"}.items():
        suite.set(name, str(value))
        suites.set(name, str(value))
    return suites


def write_junit(check: Check, path: Path) -> None:
    """Write JUnit XML to `path`. Raises `UsageError` if it cannot be written."""
    tree = ElementTree.ElementTree(render_junit(check))
    ElementTree.indent(tree)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tree.write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise UsageError(f"--junit cannot be written to {path}: {error.strerror}.") from error


def _tag(finding: Finding, undecided: Verdict) -> str | None:
    if finding.verdict is Verdict.UNDECIDED:
        return {Verdict.FAILS: "failure", Verdict.HOLDS: None}.get(undecided, "error")
    return {Verdict.FAILS: "failure", Verdict.SKIPPED: "skipped"}.get(finding.verdict)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", escape_line(text))
