from collections.abc import Callable
from pathlib import Path

import pytest

from recprune_export.bundle import Manifest, write_bundle
from recprune_export.onnx import SessionOptions
from recprune_export.report import render_bundle_report, render_saved_bundle_report
from recprune_export.report.numbers import SPACE, format_bytes, format_count, format_ratio, format_signed
from recprune_export.validation import DENSE_ONNX, PRUNED_ONNX
from tests.bundle import samples as bundles
from tests.report import samples
from tests.report.pages import Element, read
from tests.report.properties import check_page

KINDS: dict[str, Callable[[], Manifest]] = {
    "full": samples.full,
    "bare": samples.bare,
    "without data": samples.without_data,
    "older": samples.before_distributions,
    "hostile": lambda: samples.full(samples.HOSTILE),
    "of 2000 groups": lambda: samples.full("a.long.name.of.some.module" * 10, groups=2000),
}


@pytest.fixture(params=KINDS, scope="module")
def manifest(request: pytest.FixtureRequest) -> Manifest:
    return KINDS[request.param]()


def texts(root: Element) -> str:
    return " ".join(root.text.split())


def section(root: Element, key: str) -> Element:
    (found,) = (element for element in root.all("section") if element.attributes["id"] == key)
    return found


def test_every_page_stands_alone_and_can_be_read(manifest: Manifest) -> None:
    check_page(render_bundle_report(manifest, encoded=True))


def test_a_manifest_gives_the_same_page_from_disk(tmp_path: Path) -> None:
    written = samples.full()
    page = render_bundle_report(written, encoded=False)
    files = bundles.files()
    assert render_saved_bundle_report(write_bundle(tmp_path / "b", files, written)) == page
    assert render_saved_bundle_report(write_bundle(tmp_path / "b", {**files, "encoding.json": b"{}"}, written)) != page


def test_hostile_names_are_text() -> None:
    root = read(render_bundle_report(samples.full(samples.HOSTILE), encoded=True))
    shown = samples.HOSTILE.replace("\0", "\ufffd").replace("\u202e", "\ufffd")
    assert root.all("h1")[0].text == shown
    assert not root.all("script", "img")
    for place in (
        *root.all("aside"),
        section(root, "calling"),
        section(root, "widths"),
        section(root, "frozen"),
        section(root, "parity"),
    ):
        assert shown in place.text
    assert shown in " ".join(description.text for description in root.all("desc"))
    assert "49" not in root.all("h1")[0].text


def test_the_headline_states_what_the_manifest_states() -> None:
    stated = samples.full()
    small, fast, good = (
        e for e in read(render_bundle_report(stated, encoded=False)).walk() if e.attributes.get("class") == "headline"
    )
    dense, pruned = (stated.counts[which]["bytes"] for which in ("dense", "pruned"))
    for figure in (format_ratio(dense / pruned), format_bytes(dense), format_bytes(pruned)):
        assert figure in small.text
    ratio = stated.latency["ratios"]["256"][f"{DENSE_ONNX} / {PRUNED_ONNX}"]
    for figure in (
        format_ratio(ratio["estimate"]),
        format_ratio(ratio["low"])[:-1],
        format_ratio(ratio["high"])[:-1],
        "batch 256",
    ):
        assert figure in fast.text
    change = stated.change
    low, high = change["interval"]
    for figure in (
        format_signed(change["after"] - change["before"]),
        format_signed(low),
        format_signed(high),
        format_count(change["rows"]),
    ):
        assert figure in good.text


def test_tables_state_what_the_manifest_states() -> None:
    stated = samples.full()
    root = read(render_bundle_report(stated, encoded=False))
    for part in ("tables", "rest"):
        for which in ("dense", "pruned"):
            assert format_count(stated.counts[which][part]["parameters"]) in section(root, "size").text
    for metrics in stated.metrics.values():
        assert all(f"{value:.4f}" in section(root, "quality").text for value in metrics.values())
    for batch, of in stated.latency["milliseconds"].items():
        (figure,) = (
            f
            for f in section(root, "latency").all("figure")
            if f.all("figcaption")[0].text.startswith(f"Batch {batch},")
        )
        rows = {row.all("th")[0].text: row.text for row in figure.all("tbody")[0].all("tr")}
        assert set(rows) == set(of)
        for name, values in of.items():
            assert f"{values['p99']:#.3g}" in rows[name]
    for group in stated.plan["groups"]:
        (row,) = (r for r in section(root, "widths").all("tr") if r.all("th")[0].text == group["group"])
        assert [cell.text for cell in row.all("td")][:2] == [str(group["width"]), str(group["kept"])]
    assert sum(axis["count"] for axis in stated.plan["frozen"]) == sum(
        int(row.all("td")[0].text) for row in section(root, "frozen").all("tbody")[0].all("tr")
    )
    assert "1.9e−06" in section(root, "parity").text


def test_what_a_section_needs_and_the_manifest_lacks_is_left_out_or_said() -> None:
    root = read(render_bundle_report(samples.bare(), encoded=False))
    keys = [element.attributes["id"] for element in root.all("section")]
    assert keys == ["quality", "calling"]
    assert "Not measured" in section(root, "quality").text
    assert "not measured" in texts(read(render_bundle_report(samples.without_data(), encoded=False)))


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-0.004, -0.001, "lies below zero"), (-0.004, 0.002, "contains zero"), (0.001, 0.002, "lies above zero")],
)
def test_the_interval_is_put_into_words(low: float, high: float, said: str) -> None:
    change = {**samples.full().change, "interval": [low, high]}
    assert said in section(read(render_bundle_report(samples.full(change=change), encoded=False)), "quality").text


def test_stages_are_one_where_their_groups_have_the_same_names() -> None:
    plan = dict(samples.full().plan)
    second = [{**group, "width": group["kept"], "kept": 3} for group in plan["groups"]]
    root = read(render_bundle_report(samples.full(plan={**plan, "then": {**plan, "groups": second}}), encoded=False))
    pictures = section(root, "widths").all("svg")
    assert len(pictures) == 2
    assert "32 → 3" in pictures[0].text
    renamed = [{**group, "group": f"new {group['group']}"} for group in second]
    root = read(render_bundle_report(samples.full(plan={**plan, "then": {**plan, "groups": renamed}}), encoded=False))
    assert [p.all("title")[0].text.partition(", ")[2] for p in section(root, "widths").all("svg")] == [
        "stage 1"
    ] * 2 + ["stage 2"] * 2


def test_the_code_is_python_with_the_options_of_the_bundle() -> None:
    options = SessionOptions(threads=3, arena=False)
    root = read(render_bundle_report(samples.full(session={"options": options.to_dict()}), encoded=False))
    (code,) = section(root, "calling").all("pre")
    compile(code.text, "page", "exec")
    assert options.code() in code.text


def test_a_slower_model_is_not_called_faster() -> None:
    slow = samples.latency()
    slow["ratios"]["256"][f"{DENSE_ONNX} / {PRUNED_ONNX}"] = {"estimate": 0.8, "low": 0.7, "high": 0.9}
    root = read(render_bundle_report(samples.full(latency=slow), encoded=False))
    names = [e.all("span")[0].text for e in root.walk() if e.attributes.get("class") == "headline"]
    assert names == ["smaller", "slower", "change of AUC"]


def test_a_lower_bound_of_the_operations_is_called_one() -> None:
    both = samples.full().counts
    partial = samples.full(counts={**both, "dense": {**both["dense"], "operations_complete": False}})
    rows = {
        title: next(
            line
            for line in section(read(render_bundle_report(manifest, encoded=False)), "size").all("tr")
            if "Multiply" in line.text
        ).text
        for title, manifest in (("whole", samples.full()), ("partial", partial))
    }
    assert "at least 88,556" in rows["partial"]
    assert "at least" not in rows["whole"]
    assert "%" in rows["whole"]
    assert "%" not in rows["partial"]


def test_what_the_bundle_was_made_of_is_told() -> None:
    text = section(read(render_bundle_report(samples.full(license="Apache-2.0"), encoded=False)), "environment").text
    assert all(told in text for told in ("Apache-2.0", "a" * 64, "b" * 64, "c" * 40 + ", with changes"))
    assert "recprune-export" in text
    older = samples.full(provenance=None, settings={**samples.full().settings, "command": ["old.pt", "--seed", "3"]})
    assert "old.pt --seed 3" in section(read(render_bundle_report(older, encoded=False)), "environment").text


def test_units_stay_with_their_figures() -> None:
    assert SPACE in format_bytes(1e6)
    assert f"191{SPACE}kB" in render_bundle_report(samples.full(), encoded=False)


def test_weights_in_fewer_bits_are_told_with_the_gate_and_the_speed() -> None:
    told = texts(section(read(render_bundle_report(samples.full(), encoded=True)), "quantization"))
    assert "265 kB instead of 681 kB" in told.replace(SPACE, " ")
    for words in ("lost +0.00004", "It holds", "int8 by row", "Reverted to more bits for quality: 1 weights", "1.25×"):
        assert words in told
    assert 'id="quantization"' not in render_bundle_report(samples.full(quantization={}), encoded=True)


def test_quality_by_id_frequency_and_calibration_stand_beside_the_mean() -> None:
    quality = section(read(render_bundle_report(samples.full("net"), encoded=True)), "quality")
    shown = texts(quality)
    assert "By frequency of the rarest id of the row" in shown
    assert "0 (unknown) 3 no metric is defined" in shown
    assert "1–9 120 AUC 0.6100 0.5800 −0.0300 (−0.0500 to −0.0100)" in shown
    assert "dense 0.2100 0.2200 0.0310" in shown
    assert len(quality.all("svg")) == 1


def test_a_metric_of_which_less_is_better_is_a_loss_where_it_rose() -> None:
    change = {
        "metric": "logloss", "before": 0.4, "after": 0.41, "interval": [0.005, 0.015], "error": 0.01, "rows": 812,
        "greater_is_better": False,
    }  # fmt: skip
    manifest = samples.full("net").model_copy(update={"change": change})
    assert "lies above zero: there is a loss" in texts(read(render_bundle_report(manifest, encoded=True)))


def test_sections_fold_and_the_important_ones_are_open() -> None:
    root = read(render_bundle_report(samples.full(), encoded=True))
    folds = {
        fold.all("section")[0].attributes["id"]: "open" in fold.attributes
        for fold in root.all("details")
        if fold.all("section")
    }
    assert {key for key, is_open in folds.items() if is_open} == {
        "size", "storage", "quality", "tuning", "search", "latency", "widths",
    }  # fmt: skip
    assert {key for key, is_open in folds.items() if not is_open} == {
        "quantization", "rewrites", "frozen", "parity", "calling", "environment",
    }  # fmt: skip
    for fold in root.all("details"):
        assert fold.children
        assert next(child.tag for child in fold.children if isinstance(child, Element)) == "summary"


def test_the_tuning_curve_marks_the_kept_epoch_and_has_the_untuned_model() -> None:
    tuning = section(read(render_bundle_report(samples.full(), encoded=True)), "tuning")
    (picture,) = tuning.all("svg")
    (kept,) = (shape for shape in picture.all("polygon") if shape.attributes["class"] == "own")
    dots = [dot for dot in picture.all("circle") if dot.attributes["class"] == "strong"]
    (untuned,) = (dot for dot in picture.all("circle") if dot.attributes["class"] == "hollow")
    assert len(dots) == 2  # the first epoch is no candidate
    across = [float(kept.attributes["points"].split(",")[0]), *(float(dot.attributes["cx"]) for dot in dots)]
    assert float(untuned.attributes["cx"]) < min(across)
    assert sorted(across)[1] == across[0]
    assert (
        "before tuning: 0.6900; epoch 2: 0.7010; epoch 3: 0.7040, chosen; epoch 4: 0.7030"
        in picture.all("desc")[0].text
    )
    rows = [[cell.text for cell in row.all("th", "td")] for row in tuning.all("tbody")[0].all("tr")]
    assert rows[:2] == [["0, before tuning", "", "0.6900", ""], ["1", "0.5000", "no candidate", ""]]
    assert rows[3] == ["3", "0.4800", "0.7040", "kept"]


def test_weights_from_before_tuning_are_the_kept_ones_where_no_epoch_was_better() -> None:
    plan = {**samples.full().plan, "finetuning": samples.tuning((None, 0.68), best=-1)}
    shown = texts(section(read(render_bundle_report(samples.full(plan=plan), encoded=True)), "tuning"))
    assert "the weights before tuning were kept" in shown
    assert "0, before tuning 0.6900 kept" in shown


@pytest.mark.parametrize("run", [None, samples.tuning((None, None), best=-1)])
def test_without_a_candidate_there_is_no_curve(run: object) -> None:
    plan = {**samples.full().plan, "finetuning": run}
    assert 'id="tuning"' not in render_bundle_report(samples.full(plan=plan), encoded=True)


def test_each_stage_of_pruning_has_a_curve() -> None:
    plan = {**samples.full().plan, "regularization": {"strength": 0.1, "zero_channels": {}, **samples.tuning()}}
    root = read(render_bundle_report(samples.full(plan={**plan, "then": samples.full().plan}), encoded=True))
    captions = [figure.all("figcaption")[0].text.partition(":")[0] for figure in section(root, "tuning").all("figure")]
    assert captions == ["Training towards fewer channels", "Stage 1", "Stage 2"]


def test_rewrites_say_what_they_gave_and_why_they_were_dropped() -> None:
    rewrites = section(read(render_bundle_report(samples.full("net"), encoded=True)), "rewrites")
    rows = [[cell.text for cell in row.all("th", "td")] for row in rewrites.all("tbody")[0].all("tr")]
    assert rows[0] == ["net.0", "3", "−25.0\xa0%", "−25.0\xa0%", "kept"]
    assert rows[1][2:] == ["+33.3\xa0%", "+33.3\xa0%", "dropped: net.1 is estimated to be 7.1% slower at batch 64"]
    assert "0.0400 to 0.0300 ms at batch 1 (−25.0\xa0%)" in rewrites.text
    assert 'id="rewrites"' not in render_bundle_report(samples.full(rewrites=[]), encoded=True)


def test_the_search_of_the_job_is_drawn_with_the_chosen_point() -> None:
    counts = {"dense": samples.counts(62_048, 88_545, 640_000), "pruned": samples.counts(19_390, 26_911, 191_322)}
    search = section(read(render_bundle_report(samples.full(counts=counts), encoded=True)), "search")
    (picture,) = search.all("svg")
    assert len([shape for shape in picture.all("polygon") if shape.attributes["class"] == "own"]) == 1
    assert "The diamond is the point of this bundle" in search.text
    assert [row.all("th")[0].text for row in search.all("tbody")[0].all("tr")] == [
        "10 % of the bytes", "30 % of the bytes", "30 % of the bytes",
    ]  # fmt: skip
    assert 'id="search"' not in render_bundle_report(samples.full(trials=[]), encoded=True)


def test_no_reason_stands_twice_on_a_page() -> None:
    again = [
        {"tensor": f"t{n}", "axis": 0, "count": 2, "reason": "it is multiplied", "source": f'"/m.py", line {n}'}
        for n in range(3)
    ]
    sentence = "auc fell by 0.0100: a large loss."
    manifest = samples.full(
        plan={**samples.full().plan, "frozen": again},
        quantization={
            **samples.full().quantization,
            "tables": [samples.weight(f"w{n}", "fp32", "it holds less than 1%") for n in range(3)],
        },
        quality={"metric": "auc", "loss": {"estimate": 0.01, "low": 0.005, "high": 0.015}, "limit": 0.002, "verdict": "fails",
                 "sentence": sentence},
        notes=[sentence],
    )  # fmt: skip
    root = read(render_bundle_report(manifest, encoded=True))
    for reason in ("it is multiplied", "it holds less than 1%", sentence):
        assert texts(root).count(reason) == 1, reason
    (frozen,) = section(root, "frozen").all("tbody")[0].all("tr")
    assert all(f"t{n}, axis 0" in frozen.text and f"m.py, line {n}" in frozen.text for n in range(3))
    weights = section(root, "quantization").all("tbody")[-1].text
    assert all(f"w{n}" in weights for n in range(3))


def test_a_wide_table_names_the_column_of_each_cell_for_narrow_windows() -> None:
    stacked = 0
    for table in read(render_bundle_report(samples.full(), encoded=True)).all("table"):
        if table.attributes.get("class") != "stack":
            continue
        stacked += 1
        columns = [cell.text for cell in table.all("thead")[0].all("th", "td")]
        for row in table.all("tbody")[0].all("tr"):
            assert [cell.attributes["data-label"] for cell in row.all("td")] == columns[1:]
            assert all(cell.attributes["role"] in ("cell", "rowheader") for cell in row.all("th", "td"))
    assert stacked > 3
