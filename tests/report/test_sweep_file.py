import json
from pathlib import Path
from typing import Any

import pytest

from recprune_export.bundle import write_bundle
from recprune_export.errors import InputFileError
from recprune_export.report import render_saved_bundle_report
from recprune_export.report.plots.pareto_curve import ParetoPoint, find_pareto_front
from recprune_export.report.sections.tradeoff import find_bundle_trial
from recprune_export.report.sweep_file import find_sweep, read_sweep
from tests.bundle.samples import files
from tests.report import samples
from tests.report.pages import read
from tests.report.properties import check_page


def write(folder: Path, values: Any) -> Path:
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps(values))
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "ctr", files(), samples.full())


def test_a_sweep_of_the_same_model_beside_the_bundle_is_found(bundle: Path) -> None:
    assert "trade-off" not in render_saved_bundle_report(bundle).lower()
    write(bundle.parent / "ctr-sweep", samples.sweep())
    page = render_saved_bundle_report(bundle)
    check_page(page)
    (section,) = (s for s in read(page).all("section") if s.attributes["id"] == "tradeoff")
    assert len(section.all("svg")) == 2
    rows = [row.text for row in section.all("tbody")[0].all("tr")]
    assert [row.split("\n")[1] for row in rows] == ["sparsity 0.5", "sparsity 0.7 (knee)", "sparsity 0.9"]
    for trial, row in zip(samples.sweep()["trials"], rows, strict=True):
        assert f"{trial['before'] - trial['after']:.4f}" in row
        assert f"{trial['artifact']['speedup']['256'][0]:.2f}×" in row


def test_sparsities_bytes_and_int8_are_on_one_picture_each_with_its_shape(bundle: Path) -> None:
    write(bundle.parent / "ctr-sweep", samples.sweep_of_points())
    page = render_saved_bundle_report(bundle)
    check_page(page)
    (section,) = (s for s in read(page).all("section") if s.attributes["id"] == "tradeoff")
    trials = samples.sweep_of_points()["trials"]
    count = {
        kind: sum(trial["point"]["kind"] == kind for trial in trials) for kind in ("sparsity", "bytes", "dense int8")
    }
    for picture in section.all("svg"):
        assert len(picture.all("circle")) == count["sparsity"] + 1  # and the legend
        assert len(picture.all("rect")) == count["bytes"] + 1
        assert len(picture.all("polygon")) == count["dense int8"] + 1
    rows = [row.text for row in section.all("tbody")[0].all("tr")]
    assert "10 % of the bytes" in rows[8]
    assert "dense int8" in rows[-1]


@pytest.mark.parametrize(("limit", "expected"), [(60_787, 0.1), (61_500, None)])
def test_the_trial_of_a_bundle_of_bytes_is_that_of_its_limit(
    tmp_path: Path, limit: int, expected: float | None
) -> None:
    manifest = samples.full()
    manifest.plan["storage"]["max_bytes"] = limit  # of a dense file of 607,878 bytes
    trial = find_bundle_trial(manifest, read_sweep(write(tmp_path / "sweep", samples.sweep_of_points())).trials)
    assert (None if trial is None else trial.value) == expected


def test_a_sweep_of_another_model_is_not_taken(bundle: Path) -> None:
    other = {**samples.sweep(), "model": {"sha256": "b" * 64}}
    folder = write(bundle.parent / "ctr-sweep", other)
    assert find_sweep(samples.full(), bundle, None) is None
    with pytest.raises(InputFileError, match="another model"):
        find_sweep(samples.full(), bundle, folder)
    unknown = write(bundle.parent / "unknown", {**samples.sweep(), "model": None})
    assert find_sweep(samples.full(), bundle, unknown) is not None


@pytest.mark.parametrize(
    "values",
    [
        [],
        {},
        {"knee": None, "trials": []},
        {"knee": None, "trials": [{"sparsity": 1}]},
        {**samples.sweep(), "trials": [{**samples.sweep()["trials"][0], "artifact": None}]},
        {
            **samples.sweep(),
            "trials": [{**samples.sweep()["trials"][0], "artifact": {"bytes": 1, "speedup": {"1": [1]}}}],
        },
        {
            **samples.sweep(),
            "trials": [
                {**t, "artifact": {"bytes": 1, "speedup": {str(n): [1, 1, 1]}}}
                for n, t in enumerate(samples.sweep()["trials"])
            ],
        },
        {**samples.sweep(), "trials": [{**samples.sweep()["trials"][0], "interval": [float("nan"), 1]}]},
    ],
)
def test_what_is_no_sweep_is_said(tmp_path: Path, values: Any) -> None:
    with pytest.raises(InputFileError, match="sweep again"):
        read_sweep(write(tmp_path / "sweep", values))


def test_a_missing_sweep_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="No such file"):
        read_sweep(tmp_path / "none")


def test_no_point_of_the_front_is_beaten_and_every_other_is() -> None:
    points = [
        ParetoPoint(str(n), cost, change, 0, 0)
        for n, (cost, change) in enumerate([(1, -3), (2, -1), (3, -2), (4, 0), (2, -2)])
    ]
    for less in (True, False):
        best = find_pareto_front(points, less)
        for point in points:
            beaten = any(
                (p.cost <= point.cost if less else p.cost >= point.cost) and p.change >= point.change and p is not point
                for p in points
            )
            assert beaten == (point not in best)
