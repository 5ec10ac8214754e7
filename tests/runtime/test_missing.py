"""What the runtime lacks, and what is not installed beside it, is said in one line that names what to install."""

import os
from pathlib import Path

import pytest

from recprune_export.cli.main_group import WHOLE_TOOL_COMMANDS, main
from tests.runtime.processes import PROJECT, Runtime, copy_runtime

WHOLE = "requires the full package, but this is recprune-export-runtime: pip install recprune-export"
copied = pytest.mark.skipif("RECPRUNE_RUNTIME_PYTHON" in os.environ, reason="takes packages away from a copy")


@pytest.mark.parametrize("command", WHOLE_TOOL_COMMANDS)
def test_a_command_of_the_whole_tool_is_refused_before_its_options_are_read(runtime: Runtime, command: str) -> None:
    assert runtime.refusal(command, "--nothing") == f"Error: {command} {WHOLE}"


def test_the_main_job_is_refused(runtime: Runtime, checkpoint: Path) -> None:
    assert runtime.refusal(checkpoint, "--sparsity", "0.7") == f"Error: compress, the main job, {WHOLE}"


def test_options_of_the_whole_tool_are_refused(
    runtime: Runtime, checkpoint: Path, bundle: Path, clicks_file: Path
) -> None:
    assert runtime.refusal("inspect", checkpoint).endswith(f"nor an .onnx file {WHOLE}")
    assert (
        runtime.refusal("check", bundle, "--against", bundle, "--data", clicks_file) == f"Error: check --data {WHOLE}"
    )


def test_a_mistyped_command_is_still_answered(runtime: Runtime) -> None:
    assert "Did you mean 'verify'?" in runtime.run("verfy").stderr


def test_the_commands_of_both_are_all_commands() -> None:
    assert set(WHOLE_TOOL_COMMANDS) < set(main.commands)


@copied
def test_an_extra_is_named(bundle: Path, clicks_file: Path, tmp_path: Path) -> None:
    bare = copy_runtime(tmp_path / "bare", extras=())
    bare.output("verify", bundle)
    predict = ("predict", bundle, "--data", clicks_file, "-o", tmp_path / "scores.csv")
    assert bare.refusal(*predict) == "Error: predict requires polars: pip install 'recprune-export-runtime[predict]'"
    assert not (tmp_path / "scores.csv").exists()
    pack = ("pack", bundle, "-o", tmp_path / "packed.tar.zst")
    assert bare.refusal(*pack).endswith("require zstandard: pip install 'recprune-export-runtime[pack]'.")
    key = tmp_path / "key.pem"
    key.touch()
    assert bare.refusal("verify", bundle, "--public-key", key).endswith("'recprune-export-runtime[sign]'.")


# Modules of each package that the runtime requires, and a command that needs it.
MODULES = {"typing-extensions": "typing_extensions", "lazy-loader": "lazy_loader"}
REQUIRED = sorted(line.partition(">")[0] for line in PROJECT["project"]["dependencies"])


@copied
@pytest.mark.parametrize("package", REQUIRED)
def test_a_missing_package_is_named(package: str, bundle: Path, tmp_path: Path) -> None:
    module = MODULES.get(package, package)
    bare = copy_runtime(tmp_path / "bare", without={module})
    report = ("report", bundle, "-o", tmp_path / "page.html")
    command = {"rich": ("inspect", bundle), "onnxruntime": ("verify", bundle)}.get(package, report)
    line = bare.refusal(*command)
    assert line.startswith("Error: ")
    assert line.endswith(f"requires {module}: pip install recprune-export-runtime")
