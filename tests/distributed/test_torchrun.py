"""The command line under torchrun: one checkpoint, one sentence where a process fails or is killed, and other processes end soon."""

import os
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from recprune_export.api import compress
from recprune_export.bundle import read_manifest, verify
from recprune_export.data import SchemaOverrides
from recprune_export.refresh import make_drift_report
from recprune_export.settings import Settings
from recprune_export.training import load_checkpoint, train

OTHER_RANK_FAILS = """
import os, signal
from recprune_export.errors import UsageError
from recprune_export.training import _train

def make_optimizer(*arguments):
    if os.environ["RANK"] == {rank!r}:
        if {how!r} == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise {{"refused": UsageError("Its disk is full."), "fault": TypeError("a fault")}}[{how!r}]
    return original(*arguments)

original, _train.make_optimizer = _train.make_optimizer, make_optimizer
"""
START = "from recprune_export.__main__ import run\nrun()\n"


def run_together(folder: Path, script: str, *arguments: object) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run a script in two processes of torchrun; return what it said, and the seconds."""
    file = folder / "together.py"
    file.write_text(script)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", file, *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=120, check=False,
    )  # fmt: skip
    return done, time.monotonic() - start


def train_arguments(data: Path, output: Path) -> list[object]:
    return [
        "train",
        "--data",
        data,
        "--label",
        "clicked",
        "--recommender",
        "neumf",
        "--epochs",
        1,
        "--dim",
        8,
        "-o",
        output,
    ]


def test_train_writes_one_checkpoint_and_prints_once(clicks_file: Path, tmp_path: Path) -> None:
    done, _ = run_together(tmp_path, START, *train_arguments(clicks_file, tmp_path / "model.pt"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Test: auc") == 1
    assert load_checkpoint(tmp_path / "model.pt").metrics["auc"] > 0.5
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt", "together.py"}


@pytest.mark.slow
def test_histories_in_files_are_written_once_and_read_by_all(sequences_file: Path, tmp_path: Path) -> None:
    recipe = ["--recommender", "sasrec", "--epochs", 1, "--dim", 8, "--batch-size", 32]
    metrics = []
    for option in ("--stream", "--no-stream"):
        words = ["train", "--data", sequences_file, *recipe, option, "-o", tmp_path / f"{option}.pt"]
        done, _ = run_together(tmp_path, START, *words)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("are sorted by user") == (option == "--stream")
        metrics.append(load_checkpoint(tmp_path / f"{option}.pt").metrics)
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("refused", "Error: Process 2 of 2 failed: Its disk is full."),
        pytest.param("fault", "Error: Process 2 of 2 failed: TypeError: a fault", marks=pytest.mark.slow),
        ("killed", "Error: Process 2 of 2 was terminated, or ran out of memory, so the run ended"),
        ("killed", "Error: Process 1 of 2 was terminated, or ran out of memory, so the run ended"),
    ],
)
def test_a_process_that_fails_ends_all_with_one_sentence(
    clicks_file: Path, tmp_path: Path, how: str, said: str
) -> None:
    number = "0" if said.startswith("Error: Process 1") else "1"
    script = OTHER_RANK_FAILS.format(how=how, rank=number) + START
    done, seconds = run_together(tmp_path, script, *train_arguments(clicks_file, tmp_path / "model.pt"))
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(said)
    assert seconds < 60
    assert {path.name for path in tmp_path.iterdir()} == {"together.py"}


@pytest.mark.slow
def test_what_all_processes_refuse_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    done, _ = run_together(tmp_path, START, *train_arguments(tmp_path / "rows.csv", tmp_path / "model.pt"))
    assert done.returncode == 1
    assert sum(line.startswith("Error: ") for line in done.stderr.splitlines()) == 1


def test_a_command_for_one_process_runs_in_the_first_alone(tmp_path: Path) -> None:
    done, _ = run_together(tmp_path, START, "generate", "--rows", 100, "-o", tmp_path / "rows.parquet")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Wrote") + done.stderr.count("Wrote") == 1


@pytest.mark.slow
def test_a_shard_of_a_sweep_is_tuned_by_all_processes_together(clicks_file: Path, tmp_path: Path) -> None:
    done, _ = run_together(tmp_path, START, *train_arguments(clicks_file, tmp_path / "model.pt"))
    assert done.returncode == 0, done.stderr
    points = ["--sparsities", "0.5,0.8", "--byte-fractions", "none", "--epochs", 0, "--quick", "--shard", "1/3"]
    words = ["sweep", tmp_path / "model.pt", "--data", clicks_file, *points, "-o", tmp_path / "sweep"]
    done, _ = run_together(tmp_path, START, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Tuned, shard 1/3: sparsity 0.5.") == 1
    (tuned,) = (tmp_path / "sweep" / "trials").iterdir()
    assert tuned.suffix == ".tuned"


@pytest.mark.slow
def test_a_plan_that_does_not_hold_is_made_again_by_all_processes_together(clicks_file: Path, tmp_path: Path) -> None:
    config = {"dim": 8, "hidden": (32,)}
    roles = SchemaOverrides(labels=("clicked",))
    train(clicks_file, "deepfm", tmp_path / "model.pt", roles, config, epochs=3, batch_size=128)
    quick = Settings(sparsity=0.6, epochs=1, latency_batch_sizes=(1,))
    compress(tmp_path / "model.pt", target=tmp_path / "bundle", data=clicks_file, settings=quick)
    rows = pl.read_parquet(clicks_file)
    items = rows["item"].unique().sort()
    others = items.sample(fraction=1.0, shuffle=True, seed=1)  # other items are the frequent ones
    rows.with_columns(pl.col("item").replace_strict(items, others)).write_parquet(tmp_path / "new.parquet")
    words = ["refresh", tmp_path / "bundle", "--data", tmp_path / "new.parquet", "-o", tmp_path / "again"]
    done, _ = run_together(tmp_path, START, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Is the plan still valid?") == 1
    verify(tmp_path / "again")
    assert read_manifest(tmp_path / "again").settings["data"] == "new.parquet"
    assert make_drift_report(tmp_path / "again", tmp_path / "new.parquet").holds
