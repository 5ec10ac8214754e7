"""Other tools on the same work: onnxsim, Olive, Torch-Pruning and a smaller model beside `--max-bytes` and `--sparsity`.

    python benchmarks/peers.py [--only frappe/dlrm,anime/dlrm] [--seeds 0,1,2] [--data-folder ../shared/data]

Every contestant starts from the same trained recommenders, one of each seed, except the small one, which is trained from scratch.
Quality is that of the ONNX file on the test rows, paired by row and seed with the dense file. Each file is timed in
ONNX Runtime in turns with the dense one, in one process and over new sessions. A tool that is not installed is left out by
name. Each file is measured once and saved in --cache; delete a cell to measure it again. Writes a table and a picture into
docs/, prints the same, and JSON as the last line.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from bytes_cells import CellFolder, Key, Latency, Measurer
from bytes_files import DENSE, OURS, SMALL, Subject, make_dense
from bytes_scores import Quality
from bytes_table import Row, format_change, format_latency
from bytes_verdicts import AUC_LOSS, Change, judge_loss, paired_change
from cases import cases_with_data
from peer_files import (
    HIDDEN_SPARSITY,
    OLIVE_INT4,
    OLIVE_INT8,
    ONNXSIM,
    ONNXSIM_SPARSITY,
    OURS_SPARSE,
    PACKAGES,
    SIMPLIFIED,
    TORCH_PRUNING,
    make_peer,
    read_versions,
)
from quality_bytes import print_progress, read_commit
from results import told_of_machine, write_section

from recprune_export.environment import environment
from recprune_export.evidence import Estimate
from recprune_export.validation import interval_of_few

DOCS = Path(__file__).parent.parent / "docs"
HERE = Path(__file__).parent.parent
CASES = ("frappe/dlrm", "anime/dlrm")  # the rows that lose most, and rows that lose little
BATCHES = (1, 64, 256)
SUMMARY_BATCH = 64
SIZE = 10.0  # percent of the bytes of the dense file, of ours and the small model
SPARSITY = 0.7
ENTRIES = (
    (DENSE, 0.0),
    (SIMPLIFIED, 0.0),
    (ONNXSIM, 0.0),
    (OLIVE_INT8, 0.0),
    (OLIVE_INT4, 0.0),
    (TORCH_PRUNING, 0.0),
    (SMALL, SIZE),
    (OURS_SPARSE, SPARSITY),
    (OURS, SIZE),
)
PROTOCOL = f"""Figures are for ONNX files in ONNX Runtime on one thread, as means over seeds; bytes are percentages of the dense file.

- *onnxsim, simplified*: `onnxsim.simplify`. *Pruned and int8*: then `apply_structured_wanda_pruning` at its default of
  {ONNXSIM_SPARSITY:g}, `apply_pruning_finetune`, `quantize_dynamic` and `simplify`. It removes only hidden units, and leaves tables in
  fp32.
- *Olive, int8*: `OnnxDynamicQuantization` by channel, which is `quantize_dynamic` of ONNX Runtime. *Int4 tables*:
  `OnnxBlockWiseRtnQuantization` in blocks of 32, then int8 for the layers. Its pruning passes (SliceGPT, SparseGPT) accept only
  language models of Hugging Face.
- *Torch-Pruning, tuned, int8*: `MetaPruner` by magnitude removes {HIDDEN_SPARSITY:.0%} of the hidden units; then follow our
  fine-tuning with the same teacher and number of epochs, our export without its rewrites, and int8 by Olive. Tables are not pruned,
  because the fields are stacked.
- *A smaller model*: the same architecture with all widths reduced in proportion, the largest whose file fits into {SIZE:g} % in int8.
  It is
  trained from scratch on the labels; its learning rate is the best of three on validation rows, chosen with the first seed.
- *Change*: the change of the AUC against the dense model of the same seed, with the one-sided 95 % bounds of a paired bootstrap over
  rows and
  seeds. *Ours less this*: the AUC of `--max-bytes {SIZE:g}%` minus that of the row. *Batch*: milliseconds, and the speed-up over the
  dense file in the same process, with a 95 % interval over sets of sessions.
"""


def get_title(row: Row) -> str:
    """Return the name of a row of a table."""
    titles = {
        OURS: f"recprune-export `--max-bytes {row.size:g}%`",
        OURS_SPARSE: f"recprune-export `--sparsity {row.size:g} --quantize int8`",
        SMALL: "a smaller model from scratch, int8",
    }
    return titles.get(row.contestant, row.contestant)


def measure(case: str, seed: int, data_folder: Path, cells: CellFolder) -> None:
    """Measure what is missing of one case and seed; a tool that is not installed is left out."""
    installed = read_versions()
    keys = [
        Key(case, seed, name, point)
        for name, point in ENTRIES
        if name not in PACKAGES or installed[PACKAGES[name]] is not None
    ]
    missing = [key for key in keys if not cells.has(key)]
    if not missing:
        return
    subject = Subject.prepare(case, seed, data_folder, cells.folder)
    measurer = Measurer(subject, cells, BATCHES)
    for key in missing:
        make = (
            partial(make_dense, subject)
            if key.contestant == DENSE
            else partial(make_peer, subject, key.contestant, key.point, cells.folder / "small")
        )
        print_progress(measurer.measure(key, make, read_commit(HERE)))


def read_rows(cells: CellFolder, case: str) -> list[Row]:
    """Return what was measured of a case, a row for each contestant, beside the dense model of the same seeds."""
    known = {cell.key: cell for cell in cells.cells if cell.case == case}
    dense = {key.seed: cells.read_quality(key) for key in known if key.contestant == DENSE}
    rows = []
    for name, point in ENTRIES:
        own = [known[key] for seed in sorted(dense) if (key := Key(case, seed, name, point)) in known]
        if own:
            qualities = [cells.read_quality(cell.key) for cell in own]
            change = None if name == DENSE else compare([dense[cell.seed] for cell in own], qualities)
            rows.append(Row(point, name, own, qualities, change))
    return rows


def compare(before: Sequence[Quality], after: Sequence[Quality]) -> Change:
    """Return the change of the AUC."""
    return paired_change(before, after, relative=False)


def compare_with_ours(row: Row, rows: Sequence[Row]) -> Change | None:
    """Return the AUC of ours at `SIZE` less that of the row, of the seeds of both; None for ours itself, and without a seed of both."""
    ours = next((other for other in rows if other.contestant == OURS), None)
    if ours is None or row.contestant == OURS:
        return None
    seeds = [seed for seed in row.seeds if seed in ours.seeds]
    if not seeds:
        return None
    theirs, mine = ([r.qualities[r.seeds.index(seed)] for seed in seeds] for r in (row, ours))
    return compare(theirs, mine)


def find_speedup(row: Row, batch: int) -> Estimate:
    """Return how many times faster than the dense file a row is, over all sets of sessions of all seeds."""
    latencies: list[Latency] = [cell.at_batch(batch) for cell in row.cells]
    return interval_of_few([log for each in latencies for log in each.log_ratios], confidence=0.95).apply(math.exp)


def get_percent(row: Row) -> float:
    """Return the bytes of a row in percent of those of the dense file."""
    return sum(cell.percent for cell in row.cells) / len(row.cells)


def make_table(rows: Sequence[Row]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [
        "| | bytes | "
        + " | ".join(f"batch {batch}, ms" for batch in BATCHES)
        + " | AUC | change | verdict | ours less this |",
        "|---|---|" + "---|" * len(BATCHES) + "---|---|---|---|",
    ]
    for row in rows:
        times = " | ".join(format_latency(row, batch) for batch in BATCHES)
        less = compare_with_ours(row, rows)
        verdict = "" if row.change is None else judge_loss(row.change, AUC_LOSS)
        lines.append(
            f"| {get_title(row)} | {get_percent(row):.1f} % | {times} | {row.mean('metric'):.4f} "
            f"| {format_change(row.change, False)} | {verdict} | {format_change(less, False)} |"
        )
    return lines


def make_summary(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """Return the lines of a Markdown table of all cases: bytes, change of the AUC, and speed at `SUMMARY_BATCH`."""
    heads = (f"{case}: bytes | change of AUC | speed" for case in rows)
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---|" * 3 * len(rows)]
    titles = dict.fromkeys(get_title(row) for own in rows.values() for row in own if row.contestant != DENSE)
    for title in titles:
        cells = [_summarize(next((row for row in own if get_title(row) == title), None)) for own in rows.values()]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def _summarize(row: Row | None) -> str:
    if row is None:
        return " | | "
    speed = find_speedup(row, SUMMARY_BATCH)
    times = f"{speed.estimate:.2f} [{speed.low:.2f}, {speed.high:.2f}]"
    return f"{get_percent(row):.0f} % | {format_change(row.change, False)} | {times}"


def list_figures(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return plain JSON values of the rows."""
    return [
        {
            "contestant": row.contestant,
            "point": row.size,
            "percent": get_percent(row),
            "bytes": row.mean("bytes"),
            "auc": row.mean("metric"),
            "logloss": row.mean("logloss"),
            "change": None if row.change is None else asdict(row.change),
            "ours less this": None if (less := compare_with_ours(row, rows)) is None else asdict(less),
            "times faster": {str(batch): asdict(find_speedup(row, batch)) for batch in BATCHES},
            "seeds": row.seeds,
            "cpu seconds": row.mean("cpu_seconds"),
            "notes": list(dict.fromkeys(cell.note for cell in row.cells if cell.note)),
        }
        for row in rows
    ]


@click.command(help=__doc__.splitlines()[0])
@click.option("--only", default=",".join(CASES), show_default=True, help="Cases.")
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--data-folder", default=Path("../shared/data"), show_default=True, type=click.Path(path_type=Path))
@click.option("--cache", default=Path("artifacts/peers"), show_default=True, type=click.Path(path_type=Path))
@click.option("--report-only", is_flag=True, help="Measure nothing.")
@click.option("--remark", default="", help="What a reader should know of the machine, such as other work on it.")
@click.option("--write", default=DOCS, type=click.Path(path_type=Path, file_okay=False), help="Folder of results.md.")
def main(only: str, seeds: str, data_folder: Path, cache: Path, report_only: bool, remark: str, write: Path) -> None:
    """Measure what is not known yet, then write everything that is known."""
    torch.set_num_threads(1)
    cells = CellFolder(cache.resolve())
    installed = read_versions()
    for package in (name for name, found in installed.items() if found is None):
        print(f"{package} is left out: it is not installed.", file=sys.stderr)
    if not report_only:
        cells.folder.mkdir(parents=True, exist_ok=True)
        for case in cases_with_data(only.split(","), data_folder):
            for seed in map(int, seeds.split(",")):
                measure(case, seed, data_folder, cells)
    rows = {case: found for case in CASES if (found := read_rows(cells, case))}
    parts = [
        line for case, own in rows.items() for line in (f"### {case}, beside other tools", "", *make_table(own), "")
    ]
    where = environment()
    where["packages"] = {**where["packages"], **installed}
    summary_head = [
        "### All tools",
        "",
        f"Speed: times faster than the dense file at batch {SUMMARY_BATCH}.",
        "",
        *make_summary(rows),
        "",
    ]
    text = "\n".join([PROTOCOL, *summary_head, *parts, f"{told_of_machine(where, 1)}{' ' + remark if remark else ''}"])
    print(text)
    figures = {case: list_figures(own) for case, own in rows.items()}
    write.mkdir(parents=True, exist_ok=True)
    write_section(write / "results.md", "Other tools on the same work", "benchmarks/peers.py", text)
    summary = {"environment": where, "threads": 1, "figures": figures}
    draw_if_possible(summary, write / "peers.svg")
    print(json.dumps(summary))


def draw_if_possible(summary: dict[str, Any], path: Path) -> None:
    """Draw the picture of the README, unless matplotlib is not installed."""
    try:
        from peers_picture import draw
    except ImportError:
        print("The picture is not drawn again: matplotlib is not installed.", file=sys.stderr)
    else:
        draw(summary["figures"], SUMMARY_BATCH, path)


if __name__ == "__main__":
    main()
