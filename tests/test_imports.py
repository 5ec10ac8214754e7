"""Imports run one way, and what needs no PyTorch does not import it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import recprune_export

PACKAGE = Path(recprune_export.__file__).parent
STAGES = [
    "distributed", "data", "metrics", "recommenders", "training", "program", "channels", "pruning", "finetuning", "onnx", "validation",
    "quantization", "derived", "bundle", "prediction", "gate", "report", "pipeline",
]  # fmt: skip
ON_TOP = {"inspection", "diagnostics", "search", "api", "refresh", "reapply", "cli", "__main__", "__init__"}
FREE = {
    "errors", "error_text", "progress", "environment", "settings", "license", "provenance", "codec", "evidence", "row_resolution",
    "number_formats", "stored_bits", "runtime_releases", "byte_limit", "latency_limit", "shard", "mapped_pages", "memory_limit",
    "column_names", "output_files", "output_meaning", "installation", "terminal_text", "workflow_commands", "markdown_text", "interrupts",
    "file_tensor",
}  # fmt: skip


def test_the_picture_in_the_architecture_shows_the_packages_in_the_order_of_imports() -> None:
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = text[: text.index("\n\n`pipeline/")]
    rows = [re.findall(r"(\w+)/(?=\s|$)", line) for line in picture.splitlines() if "/" in line]
    shown = [name for row in rows for name in reversed(row)]  # data flow from the right to the left there
    assert shown == [*STAGES, "search", "refresh", "reapply", "cli"]
    assert sorted(shown) == sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def stage(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports(path: Path) -> set[str]:
    """Names of our modules that a file imports, late and for type checking as well."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    return {node.module for node in nodes if node.module and node.module.startswith("recprune_export")}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_along_the_flow(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module in imports(path):
        other = stage(module)
        if own in ON_TOP or other in FREE or own == other:
            continue
        if own == "progress" or own in FREE:
            assert other in FREE, f"{path.name} imports {module}"
        elif own == "program" and other == "training":
            assert path.is_relative_to(PACKAGE / "program" / "loading")
        elif own == "program" and other == "onnx":  # an ONNX file is read as a model by the reader of all ONNX files
            assert path.is_relative_to(PACKAGE / "program" / "loading" / "onnx_graphs")
        elif own == "program" and other == "channels":  # late: a program knows its channels
            assert (path.name, module) == ("program.py", "recprune_export.channels.analysis")
        else:
            assert other in STAGES, f"{path.name} imports {module}"
            assert STAGES.index(other) < STAGES.index(own), f"{path.name} imports {module}"


def modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import recprune_export.cli",
        "from click.testing import CliRunner; from recprune_export.cli import main; CliRunner().invoke(main, ['--help'])",
    ],
)
def test_what_reads_a_bundle_is_imported_late(code: str) -> None:
    assert not {"pydantic", "onnxruntime", "numpy", "zstandard", "cryptography"} & modules_after(code)


@pytest.mark.parametrize(
    "code",
    [
        "import recprune_export",
        "import recprune_export.cli",
        "import recprune_export.bundle._verify",
        "import recprune_export.diagnostics",
        "import recprune_export.bundle.archive.packing, recprune_export.bundle.archive.unpacking, recprune_export.bundle.archive.sign",
        "import recprune_export.prediction._predict",
        "import recprune_export.prediction.predict_folder, recprune_export.prediction.predictor",
        "import recprune_export.validation.latency.closed_loop",
        "import recprune_export.onnx.runtime.session",
        "import recprune_export.onnx.counts",
        "import recprune_export.validation.latency.latency_study",
        "import recprune_export.quantization._quantize",
        "import recprune_export.bundle.remeasure_latency",
        "import recprune_export.gate._check, recprune_export.gate.output.junit, recprune_export.gate.output.markdown",
        "import recprune_export.gate.latency.sequential_sampling, recprune_export.gate.latency.calibration",
        "import recprune_export.report.bundle_page, recprune_export.report.check_page, recprune_export.report.comparison_page",
        "from click.testing import CliRunner; from recprune_export.cli import main; CliRunner().invoke(main, ['--help'])",
    ],
)
def test_torch_is_imported_late(code: str) -> None:
    assert not {"torch", "polars", "onnxscript", "matplotlib"} & modules_after(code)


def test_the_template_engine_is_imported_by_the_report_alone() -> None:
    assert "jinja2" not in modules_after(
        "import recprune_export.cli, recprune_export.gate._check, recprune_export.bundle._verify"
    )
    engines = {"jinja2", "markupsafe"}
    users = {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in engines
    }
    assert users == {"report"}


def test_the_public_names_are_there() -> None:
    for name in recprune_export.__all__:
        assert getattr(recprune_export, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        recprune_export.nothing  # noqa: B018
