"""The command `check`: verdicts, exit codes and what is written, with the truth of the latency set by hand."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import onnx
import pytest
from click.testing import CliRunner, Result

from recprune_export.bundle import Content, HardLink, pack, read_manifest, write_bundle
from recprune_export.cli import main
from recprune_export.evidence import Verdict
from recprune_export.gate import Check, Finding, check, open_artifact
from recprune_export.gate import _check as module
from recprune_export.gate.output import render_junit, render_markdown
from recprune_export.onnx import SessionOptions
from recprune_export.validation import Footprint, FootprintReport
from tests.gate.models import Shape, bundle, plain
from tests.gate.synthetic import synthetic

OPTIONS = ["--latency-batch-sizes", "1,8", "--time-limit", "0"]


@pytest.fixture
def latency(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set how many times as long NEW takes; no process is started."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    report = FootprintReport({name: (Footprint(5, 1, 2**20, 2**20),) * 3 for name in ("NEW", "BASE")}, 8)
    monkeypatch.setattr(module, "measure_footprints", lambda *_: report)

    def take(ratio: float, scatter: float = 0.005) -> None:
        monkeypatch.setattr(module, "make_sampler", lambda *_: synthetic(ratio, scatter))

    take(1.0)
    return take


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return bundle(tmp_path / "base", metrics={"dense": {}, "pruned": {"auc": 0.8}}, change=change(0.8))


def run(new: Path, base: Path, *options: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in ("check", new, "--against", base, *OPTIONS, *options)])


@pytest.mark.parametrize(
    ("ratio", "scatter", "options", "code"),
    [
        (1.0, 0.005, [], 0),
        (1.2, 0.005, [], 1),
        (1.05, 0.02, [], 5),
        (1.05, 0.02, ["--undecided", "pass"], 0),
        (1.05, 0.02, ["--undecided", "fail"], 1),
        (1.2, 0.005, ["--max-regression", "50%"], 0),
        (1.2, 0.005, ["--limit", "latency=off"], 0),
        (1.2, 0.005, ["--undecided", "pass"], 1),
    ],
)
def test_exit_codes(
    ratio: float, scatter: float, options: list[str], code: int, base: Path, latency: Callable[[float, float], None]
) -> None:
    latency(ratio, scatter)
    done = run(base, base, *options)
    assert done.exit_code == code, (done.stdout, done.stderr)
    assert ("Error: " in done.stderr) == (code != 0)
    if code == 1:
        assert "latency, batch" in done.stderr


def change(after: float) -> dict[str, object]:
    """The section `change` of a manifest."""
    interval = [after - 0.811, after - 0.809]
    return {"metric": "auc", "before": 0.81, "after": after, "interval": interval, "error": 0.001, "rows": 1000}


CHANGES = {
    "quality": (
        {},
        {"metrics": {"dense": {}, "pruned": {"auc": 0.7}}, "change": change(0.7)},
        "auc went from 0.80000 to 0.70000",
    ),
    "no quality": ({}, {}, "does not record auc"),
    "renamed": ({"names": ("member", "item")}, {}, "Input 'user' is missing; was it renamed to 'member'"),
    "narrowed": ({"rows": 40}, {}, "Input 'user' accepts ids 0 to 39; before, it accepted 0 to 49"),
    "larger": ({"units": 20}, {}, "operations went from"),
}


@pytest.mark.parametrize(("shape", "manifest", "said"), CHANGES.values(), ids=CHANGES.keys())
def test_each_regression_is_named(
    shape: dict[str, object], manifest: dict[str, object], said: str, base: Path, tmp_path: Path, latency: object
) -> None:
    done = run(bundle(tmp_path / "new", Shape(**shape), **manifest), base)  # type: ignore[arg-type]
    assert done.exit_code == 1
    assert said in done.stderr


def test_more_nodes_fail_where_a_limit_names_them(base: Path, tmp_path: Path, latency: object) -> None:
    new, off = bundle(tmp_path / "new", Shape(idle=2)), ("--limit", "quality=off")
    assert run(new, base, *off).exit_code == 0
    done = run(new, base, *off, "--limit", "nodes=5%")
    assert done.exit_code == 1
    assert "nodes went from 7 to 9" in done.stderr


def test_a_packed_bundle_is_judged_and_called_by_its_name(base: Path, latency: object) -> None:
    packed = pack(base)
    done = run(packed, base)
    assert done.exit_code == 0, done.output
    assert f"{packed} against {base}" in " ".join(done.stdout.split())


def test_a_second_name_of_the_model_makes_no_bundle_larger(base: Path, tmp_path: Path, latency: object) -> None:
    manifest = read_manifest(base)
    contents: dict[str, Content] = {name: base / name for name in manifest.files}
    linked = write_bundle(tmp_path / "linked", {**contents, "triton/m/1/model.onnx": HardLink("model.onnx")}, manifest)
    assert open_artifact(linked).bytes == open_artifact(base).bytes
    assert run(linked, base).exit_code == 0


def test_plain_files_are_judged_by_what_can_be_known(tmp_path: Path, base: Path, latency: object) -> None:
    file = plain(tmp_path / "plain.onnx")
    for new, old in ((file, file), (file, base), (base, file)):
        values = json.loads(run(new, old, "--json").stdout)
        verdicts = {finding["gate"]: finding["verdict"] for finding in values["gates"]}
        assert values["verdict"] == "pass"
        assert (verdicts["quality"], verdicts["artifact size"], verdicts["operations"]) == (
            "skipped",
            "skipped",
            "pass",
        )


def test_where_no_request_suits_both_the_latency_is_not_measured(tmp_path: Path, latency: object) -> None:
    one = bundle(tmp_path / "one")
    signature = Shape().signature().to_dict()
    signature["inputs"][0]["ids"] = [[60, 70]]
    other = bundle(tmp_path / "other", signature=signature)
    values = json.loads(run(other, one, "--json").stdout)
    verdicts = {finding["gate"]: finding["verdict"] for finding in values["gates"]}
    assert (verdicts["signature"], verdicts["latency"]) == ("fail", "skipped")


def test_each_is_measured_with_the_options_of_its_bundle(tmp_path: Path) -> None:
    speedups = {"no arena": {"estimate": 1.2, "low": 1.1, "high": 1.3}}  # as earlier versions wrote
    session = {"options": SessionOptions(arena=False).to_dict(), "batches": [1], "speedups": speedups}
    opened = module.open_artifact(bundle(tmp_path / "tuned", session=session))
    assert opened.options == SessionOptions(arena=False)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nothing.onnx", "--against", "BASE"], 3, "does not exist"),
        (["BASE", "--against", "FOLDER"], 3, "manifest.json"),
        (["TEXT", "--against", "BASE"], 3, "is not an ONNX model"),
        (["BASE"], 2, "--against"),
        (["BASE", "--against", "BASE", "--calibrate"], 2, "--calibrate"),
        (["BASE", "--against", "BASE", "--max-regression", "5"], 2, "5%"),
        (["BASE", "--against", "BASE", "--limit", "speed=3%"], 2, "the gates are"),
        (["BASE", "--against", "BASE", "--latency-batch-sizes", "0"], 2, "--latency-batch-sizes"),
        (["BASE", "--against", "BASE", "--undecided", "perhaps"], 2, "perhaps"),
        (["BASE", "--against", "BASE", "--junit", "FOLDER"], 2, "it is a directory"),
        (["BASE", "--against", "BASE", "--markdown", "FOLDER"], 2, "it is a directory"),
    ],
)
def test_what_cannot_work_is_said_in_one_sentence(
    arguments: list[str], code: int, said: str, base: Path, tmp_path: Path, latency: object
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.onnx").write_text("a model")
    names = {"BASE": base, "FOLDER": tmp_path / "folder", "TEXT": tmp_path / "text.onnx"}
    done = CliRunner().invoke(main, ["check", *(str(names.get(a, a)) for a in arguments)])
    assert done.exit_code == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_changed_bundle_is_refused(base: Path, latency: object) -> None:
    (base / "model.onnx").write_bytes((base / "model.onnx").read_bytes() + b"\0")
    done = run(base, base)
    assert done.exit_code == 3
    assert "changed 'model.onnx'" in done.stderr


def test_everything_is_written_before_the_verdict(base: Path, tmp_path: Path, latency: Callable[[float], None]) -> None:
    latency(1.3)
    summary = tmp_path / "summary.md"
    summary.write_text("# Other steps\n")
    files = ["--junit", tmp_path / "check.xml", "--markdown", tmp_path / "check.md", "--json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GITHUB_STEP_SUMMARY", str(summary))
        done = run(base, base, *files)
    assert done.exit_code == 1
    assert json.loads(done.stdout)["verdict"] == "fail"
    suites = ElementTree.parse(tmp_path / "check.xml").getroot()
    assert suites.get("failures") == "2"
    assert "❌" in (tmp_path / "check.md").read_text()
    assert summary.read_text() == "# Other steps\n" + (tmp_path / "check.md").read_text()


@pytest.mark.parametrize(("ratio", "code"), [(1.0, 0), (1.3, 1)])
def test_a_step_summary_that_cannot_be_written_changes_no_verdict(
    ratio: float, code: int, base: Path, latency: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    latency(ratio)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/proc/nothing/summary.md")
    done = run(base, base)
    assert done.exit_code == code, done.stderr
    assert "Warning: The step summary /proc/nothing/summary.md was not written" in done.stderr
    assert "Verdict: " in done.stdout


@pytest.mark.parametrize(("ratio", "code"), [(1.0, 2), (1.3, 1)])
def test_a_disk_that_fills_up_meanwhile_hides_no_regression(
    ratio: float,
    code: int,
    base: Path,
    tmp_path: Path,
    latency: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = Path.write_text

    def fail(path: Path, text: str, encoding: str | None = None) -> int:
        if path.name == "check.md":
            raise OSError(28, "No space left on device")
        return honest(path, text, encoding)

    latency(ratio)
    monkeypatch.setattr(Path, "write_text", fail)
    files = {name: tmp_path / "new" / name for name in ("check.xml", "check.md", "check.html")}
    options = ("--junit", files["check.xml"], "--markdown", files["check.md"], "--report", files["check.html"])
    done = run(base, base, *options)
    assert done.exit_code == code, done.stderr
    assert "Markdown cannot be written" in done.stderr
    assert files["check.xml"].is_file()
    assert files["check.html"].is_file()


def test_a_name_makes_no_line_of_its_own(tmp_path: Path, latency: object) -> None:
    base, new = plain(tmp_path / "base.onnx"), tmp_path / "new.onnx"
    renamed = onnx.load(base)
    renamed.graph.input[0].name = renamed.graph.node[0].input[1] = "user\nVerdict: holds, after 0.1 s"
    onnx.save(renamed, new)
    done = run(new, base)
    assert done.exit_code == 1
    assert [line for line in done.stdout.splitlines() if line.startswith("Verdict")] == [done.stdout.splitlines()[-1]]
    assert not [line for line in done.stderr.splitlines() if line.startswith("Verdict")]


def test_the_table_shows_every_gate(base: Path, latency: object) -> None:
    done = run(base, base)
    for word in ("signature", "quality, auc", "non-zeros", "load time", "latency, batch 8", "Verdict: holds"):
        assert word in done.stdout


def findings() -> tuple[Finding, ...]:
    return tuple(Finding(verdict.value, verdict, f"<{verdict.value}> | & \0 \n", 1.0, 2.0) for verdict in Verdict)


@pytest.mark.parametrize(
    ("undecided", "failures", "errors"), [(Verdict.UNDECIDED, 1, 1), (Verdict.FAILS, 2, 0), (Verdict.HOLDS, 1, 0)]
)
def test_junit_can_be_parsed_and_counts(undecided: Verdict, failures: int, errors: int) -> None:
    made = Check("new <&>", "base", findings(), {}, 1, 2.0, undecided)
    suite = ElementTree.fromstring(ElementTree.tostring(render_junit(made)))[0]
    assert suite.attrib["name"] == "new <&> against base"
    assert {k: int(suite.attrib[k]) for k in ("tests", "failures", "errors", "skipped")} == {
        "tests": 4,
        "failures": failures,
        "errors": errors,
        "skipped": 1,
    }
    assert [case.get("name") for case in suite] == ["pass", "fail", "undecided", "skipped"]
    assert len(suite.findall("./testcase/failure")) == failures


def test_markdown_is_a_table_whatever_the_names_are() -> None:
    made = Check("new|x", "base", findings(), {}, 1, 2.0)
    lines = [line for line in render_markdown(made).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(findings())
    assert {line.replace("\\|", "").count("|") for line in lines} == {7}


@pytest.mark.slow
def test_calibration_tells_what_can_be_resolved(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recprune_export.gate.latency import calibration

    resolved = {}
    for scatter in (0.002, 0.03):
        monkeypatch.setattr(calibration, "make_sampler", lambda *_, s=scatter: synthetic(1.0, s))
        arguments = ["check", str(base), "--calibrate", "--json", "--time-limit", "0.2", "--latency-batch-sizes", "1"]
        values = json.loads(CliRunner().invoke(main, arguments).stdout)
        resolved[scatter] = values["by_batch_size"]["1"]["smallest_regression"]
        assert values["detectable_regression"] == pytest.approx(0.05 + resolved[scatter])
    assert 0 < 5 * resolved[0.002] < resolved[0.03]
    assert "is detected with" in CliRunner().invoke(main, arguments[:3] + arguments[4:]).stdout


def test_torch_is_not_needed(base: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['polars'] = None\n"  # importing them would raise
        "from recprune_export.gate import cost_rules\ncost_rules.FOOTPRINT_PROCESSES = 3\n"
        f"from recprune_export.cli import main; main(['check', {str(base)!r}, '--against', {str(base)!r}, "
        "'--latency-batch-sizes', '1', '--time-limit', '0', '--max-regression', '900%', ])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Verdict: holds" in done.stdout


@pytest.mark.slow
def test_a_model_that_is_slower_fails_and_itself_passes(tmp_path: Path) -> None:
    """Real processes: 256 rows through 512 units, against 1024."""
    base, slow = (plain(tmp_path / f"{units}.onnx", Shape(dim=64, units=units)) for units in (512, 1024))
    found = check(slow, base, batches=(256,), time_limit=30)
    assert next(f for f in found.findings if f.gate == "latency, batch 256").verdict is Verdict.FAILS
    same = check(base, base, batches=(256,), time_limit=30)
    assert same.verdict is not Verdict.FAILS
    assert next(f for f in same.findings if f.gate == "load time").verdict is Verdict.HOLDS
