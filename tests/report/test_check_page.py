import pytest

from recprune_export.evidence import Verdict
from recprune_export.gate import (
    Check,
    Finding,
    Limits,
    collect_samples,
    compare_growth,
    compare_latency,
    format_finding,
    make_skipped_finding,
)
from recprune_export.report import render_check_report
from tests.gate.synthetic import synthetic
from tests.report.pages import Element, read
from tests.report.properties import check_page
from tests.report.samples import HOSTILE

BATCHES = (1, 256)


def made(ratio: float, name: str = "new") -> Check:
    evidence = collect_samples(synthetic(ratio, scatter=0.002), BATCHES, 0.05, 0.0)
    findings = [
        Finding("signature", Verdict.HOLDS, "Both take the same."),
        compare_growth("parameters", "", 900, 1000, Limits()),
        make_skipped_finding("artifact size", "Only bundles have files beside the model."),
        *compare_latency(evidence, 0.05),
    ]
    return Check(name, "base", tuple(findings), evidence, threads=1, seconds=3.0)


def rows(root: Element) -> list[list[str]]:
    return [
        [" ".join(cell.text.split()) for cell in r.all("th", "td")]
        for r in root.all("table")[0].all("tbody")[0].all("tr")
    ]


@pytest.mark.parametrize(("ratio", "verdict"), [(1.0, Verdict.HOLDS), (1.3, Verdict.FAILS)])
def test_the_page_says_what_the_check_says(ratio: float, verdict: Verdict) -> None:
    check = made(ratio)
    assert check.verdict is verdict
    page = render_check_report(check)
    check_page(page)
    root = read(page)
    assert verdict.words in root.all("h1")[0].text
    shown = {cells[0]: cells for cells in rows(root)}
    for finding in check.findings:
        gate, *figures, word = format_finding(finding)
        assert shown[gate][1].endswith(word)
        assert shown[gate][2:] == figures
        assert finding.reason in root.text
    against = [note.text for aside in root.all("aside") for note in aside.all("li")]
    assert len(against) == (len(BATCHES) if verdict is Verdict.FAILS else 0)


def test_limits_are_drawn_where_they_are_parts_of_the_figure() -> None:
    root = read(render_check_report(made(1.0)))
    (growth,) = (s for s in root.all("section") if s.attributes["id"] == "growth")
    assert len([bar for bar in growth.all("rect") if bar.attributes["class"] == "limit"]) == 1 + len(BATCHES)


def test_nothing_but_a_signature_is_a_page_as_well() -> None:
    check = Check(HOSTILE, HOSTILE, (Finding(HOSTILE, Verdict.FAILS, HOSTILE),), {}, 1, 0.1, environment={})
    page = render_check_report(check)
    check_page(page)
    assert HOSTILE.replace("\0", "\ufffd").replace("\u202e", "\ufffd") in read(page).all("aside")[0].text


@pytest.mark.parametrize("ratio", [1.0, 1.3])
def test_no_reason_stands_twice(ratio: float) -> None:
    check = made(ratio)
    text = " ".join(read(render_check_report(check)).text.split())
    for finding in check.findings:
        assert text.count(finding.reason) == 1, finding.gate
