"""Two bundles side by side: what differs is told, and what cannot be compared is said."""

from pathlib import Path
from typing import Any

import pytest

from recprune_export.bundle import Manifest, write_bundle
from recprune_export.errors import BundleError, InputFileError
from recprune_export.report import BundlePair, read_pair_figures, render_comparison, render_saved_comparison
from tests.bundle import samples as bundles
from tests.report import samples
from tests.report.pages import Element, read
from tests.report.properties import check_page


def text_of(pair: BundlePair, key: str) -> str:
    root = read(render_comparison(pair))
    (found,) = (element for element in root.all("section") if element.attributes["id"] == key)
    return " ".join(found.text.split())


def rows_of(pair: BundlePair, key: str) -> dict[str, list[str]]:
    root = read(render_comparison(pair))
    (found,) = (element for element in root.all("section") if element.attributes["id"] == key)
    rows = [row for table in found.all("tbody") for row in table.all("tr")]
    return {row.all("th")[0].text: [cell.text for cell in row.all("td")] for row in rows}


def other(**changes: Any) -> Manifest:
    """The bundle of another job on the same model and rows."""
    return samples.full("ctr", **changes)


@pytest.mark.parametrize(
    "pair",
    [
        BundlePair(samples.full(), samples.full()),
        BundlePair(samples.full(samples.HOSTILE), samples.full(samples.HOSTILE, groups=2)),
        BundlePair(samples.bare(), samples.bare()),
        BundlePair(samples.full(), samples.bare()),
        BundlePair(samples.bare(), samples.without_data()),
        BundlePair(samples.before_distributions(), samples.full()),
        BundlePair(samples.full("a.long.name" * 20, groups=900), samples.full("b" * 200, groups=900)),
    ],
    ids=["same", "hostile", "bare", "full and bare", "bare and without data", "older", "large"],
)
def test_every_page_stands_alone_and_can_be_read(pair: BundlePair) -> None:
    check_page(render_comparison(pair))
    read_pair_figures(pair).to_dict()


def test_bytes_are_told_by_kind() -> None:
    smaller = samples.counts(19_390, 26_911, 100_000)
    smaller["tables"]["bytes"], smaller["rest"]["bytes"] = 30_000, 60_000
    before = {**samples.counts(19_390, 26_911, 191_322)}
    before["tables"]["bytes"], before["rest"]["bytes"] = 77_560, 107_644
    dense = samples.counts(62_048, 88_545, 607_878)
    pair = BundlePair(
        other(counts={"dense": dense, "pruned": before}), other(counts={"dense": dense, "pruned": smaller})
    )
    rows = rows_of(pair, "size")
    assert rows["bytes of model.onnx"] == ["191\xa0kB", "100\xa0kB"]
    assert rows["bytes of embedding tables"] == ["77.6\xa0kB", "30.0\xa0kB"]
    assert rows["bytes of other weights"] == ["108\xa0kB", "60.0\xa0kB"]
    assert rows["bytes of graph, scales, constants"] == ["6.12\xa0kB", "10.0\xa0kB"]
    figures = read_pair_figures(pair)
    assert (figures.a.table_bytes, figures.b.other_weight_bytes) == (77_560, 60_000)


def test_times_of_two_machines_are_not_compared() -> None:
    there = {**samples.full().environment, "cpu": "another processor", "cores": 64}
    pair = BundlePair(other(), other(environment=there, latency={**samples.latency(), "threads": 8}))
    told = text_of(pair, "latency")
    assert "cannot be compared" in told
    for difference in ("processor ctr and another processor", "cores 2 and 64", "threads 1 and 8"):
        assert difference in told
        assert difference in read_pair_figures(pair).latency_differences
    assert not picture_titles(pair, "latency")


def test_times_of_one_machine_stand_beside_those_of_the_dense_model() -> None:
    pair = BundlePair(other(), other())
    told = text_of(pair, "latency")
    assert "cannot be compared" not in told
    assert "The dense model is the same in both" in told
    assert picture_titles(pair, "latency") == [f"Latency at batch {batch}" for batch in (1, 32, 256, 1024)]
    assert set(rows_of(pair, "latency")) >= {
        "batch 256, pruned",
        "batch 256, dense",
        "batch 256, times as fast as dense",
    }


def picture_titles(pair: BundlePair, key: str) -> list[str]:
    root = read(render_comparison(pair))
    (found,) = (element for element in root.all("section") if element.attributes["id"] == key)
    return [title.text for picture in found.all("svg") for title in picture.all("title")]


def test_metrics_of_other_rows_are_not_compared() -> None:
    provenance = dict(other().provenance or {})
    elsewhere = other(provenance={**provenance, "data": {"name": "later", "bytes": 1, "sha256": "e" * 64}})
    assert "cannot be compared" in text_of(BundlePair(other(), elsewhere), "quality")
    assert "cannot be compared" not in text_of(BundlePair(other(), other()), "quality")
    assert rows_of(BundlePair(other(), other()), "quality")["AUC, pruned"] == ["0.6482", "0.6482"]


def test_a_group_that_one_bundle_lacks_has_no_width_there() -> None:
    plan = dict(other().plan)
    fewer = [group for group in plan["groups"] if group["group"] != "ctr.hidden.1"]
    wider = [{**group, "kept": 16} for group in fewer]
    rows = rows_of(BundlePair(other(), other(plan={**plan, "groups": wider})), "widths")
    assert rows["ctr.hidden.0"] == ["32", "8", "16"]
    assert rows["ctr.hidden.1"] == ["33", "8", "–"]


def test_weights_in_other_forms_are_listed() -> None:
    fp32 = other(quantization={})
    rows = rows_of(BundlePair(other(), fp32), "bits")
    assert rows["ctr.0"] == ["int8 by row", "fp32"]
    assert "ctr" not in rows  # fp32 in both
    assert 'id="bits"' not in render_comparison(BundlePair(fp32, fp32))


def test_options_that_differ_are_listed_and_no_others() -> None:
    settings = {**other().settings, "sparsity": 0.9, "max_bytes": "5%", "keep_dense": True}
    pair = BundlePair(other(), other(settings=settings))
    assert rows_of(pair, "jobs") == {"sparsity": ["0.7", "0.9"], "max bytes": ["–", "5%"], "keep dense": ["–", "yes"]}
    assert read_pair_figures(pair).different_options == ("sparsity", "max bytes", "keep dense")
    assert "are the same" in text_of(BundlePair(other(), other()), "jobs")


def test_bundles_of_different_models_are_refused(tmp_path: Path) -> None:
    files = bundles.files()
    a = write_bundle(tmp_path / "a", files, samples.bare())
    b = write_bundle(tmp_path / "b", files, samples.full())
    with pytest.raises(InputFileError, match=r"a and .*b are bundles of different models: Input 'x' is missing"):
        render_saved_comparison(a, b)
    c = write_bundle(tmp_path / "c", files, samples.bare())
    page, figures = render_saved_comparison(a, c)
    check_page(page)
    assert figures.a.name == "double"


def test_a_manifest_that_states_what_cannot_be_is_an_error_that_names_both(tmp_path: Path) -> None:
    files = bundles.files()
    good = write_bundle(tmp_path / "good", files, samples.bare())
    bad = write_bundle(tmp_path / "bad", files, samples.bare().model_copy(update={"environment": {"packages": 3}}))
    with pytest.raises(BundleError, match=r"good.* or .*bad.* is invalid"):
        render_saved_comparison(good, bad)


def test_hostile_names_are_text() -> None:
    root: Element = read(render_comparison(BundlePair(samples.full(samples.HOSTILE), samples.full(samples.HOSTILE))))
    assert not root.all("script", "img")
    assert samples.HOSTILE.replace("\0", "\ufffd").replace("\u202e", "\ufffd") in root.all("h1")[0].text
