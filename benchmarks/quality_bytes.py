"""Quality at equal bytes: ours beside the dense model in fewer bits, a small one from scratch, and `--sparsity` of 47080cf.

    python benchmarks/quality.py --axis bytes [--only frappe/dlrm,...] [--contestants "dense;ours"] [--sizes 30,10,5,3] [--seeds 0,1,2]

Sizes are percentages of the bytes of the dense fp32 file as our export writes it. Every figure is that of an ONNX file
in ONNX Runtime, from the answers to the test rows, which are saved: changes are paired by row and by seed. Each cell is saved in separate
files in --cache, so that an interrupted run can continue; delete a file to measure it again. --estimate prints the hours that the missing
cells take, and stops. Writes a table for each case and a plot into docs/, prints the same, and JSON as the last line.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import click
import torch
from bytes_cells import Cell, CellFolder, Key, Measurer, estimate_hours
from bytes_files import (
    BEFORE,
    CONTESTANTS,
    OURS,
    SIZES,
    SMALL,
    SMALL_SIZES,
    SPARSITIES,
    Subject,
    find_next_sparsity,
    make_contender,
)
from bytes_table import Report, draw
from cases import cases_with_data, find_checkpoint
from results import told_of_machine, write_section

from recprune_export.environment import environment
from recprune_export.errors import RecpruneError

DOCS = Path(__file__).parent.parent / "docs"
HERE = Path(__file__).parent.parent
CASES = (
    "frappe/dlrm", "frappe/deepfm", "beauty/sasrec", "anime/dlrm", "anime/deepfm", "anime/dcn_v2", "anime/two_tower",
    "census/mmoe",
)  # fmt: skip
SPARSITIES_TRIED = 6  # of each seed, about: bisections for four sizes share files


@dataclass(frozen=True)
class Selection:
    """Which cells are measured, and with which checkouts."""

    cases: Sequence[str]
    contestants: Sequence[str]
    sizes: Sequence[float]
    seeds: Sequence[int]
    checkouts: Mapping[str, Path]

    def list_missing(self, case: str, seed: int, cells: CellFolder) -> list[Key]:
        """Return the cells of one case and seed that are not measured, with an estimated number of sparsities."""
        points = {
            name: self.sizes
            if name == OURS
            else [s for s in self.sizes if s in SMALL_SIZES]
            if name == SMALL
            else [0.0]
            for name in self.contestants
            if name != BEFORE
        }
        keys = [Key(case, seed, name, point) for name, each in points.items() for point in each]
        if BEFORE in self.contestants:
            keys += [Key(case, seed, BEFORE, s) for s in self._guess_sparsities(case, seed, cells)]
        return [key for key in keys if not cells.has(key)]

    def _guess_sparsities(self, case: str, seed: int, cells: CellFolder) -> Sequence[float]:
        """Return about as many sparsities as the bisections for the sizes will need; none where all are known."""
        known = [cell for cell in cells.cells if (cell.case, cell.seed, cell.contestant) == (case, seed, BEFORE)]
        if known:
            limits = [int(known[0].dense_bytes * size / 100.0) for size in self.sizes]
            if find_next_sparsity({cell.point: cell.bytes for cell in known}, limits) is None:
                return []
        return [s for s in SPARSITIES if s not in {cell.point for cell in known}][
            : max(1, SPARSITIES_TRIED - len(known))
        ]


def measure(selection: Selection, case: str, seed: int, data_folder: Path, cells: CellFolder) -> None:
    """Measure the missing cells of one case and seed; cells that fail are named and left out."""
    missing = selection.list_missing(case, seed, cells)
    if not missing:
        return
    subject = Subject.prepare(case, seed, data_folder, cells.folder)
    measurer = Measurer(subject, cells)
    fixed = [key for key in missing if key.contestant != BEFORE]
    searched = _search_sparsities(selection, subject, cells) if BEFORE in selection.contestants else ()
    for key in chain(fixed, searched):  # what is searched depends on what was measured just before
        checkout = selection.checkouts.get(key.contestant, HERE)
        make = partial(make_contender, subject, key.contestant, key.point, selection.checkouts, cells.folder / "small")
        try:
            print_progress(measurer.measure(key, make, read_commit(checkout)))
        except (RuntimeError, RecpruneError) as error:
            print(f"{key} has no file: {error}", file=sys.stderr, flush=True)
            if key.contestant == BEFORE:
                return


def _search_sparsities(selection: Selection, subject: Subject, cells: CellFolder) -> Iterator[Key]:
    """Yield the sparsities whose files are needed, one after the other is measured."""
    limits = [subject.limit(size) for size in selection.sizes]
    while True:
        known = {
            cell.point: cell.bytes
            for cell in cells.cells
            if (cell.case, cell.seed, cell.contestant) == (subject.case, subject.seed, BEFORE)
        }
        sparsity = find_next_sparsity(known, limits)
        if sparsity is None:
            return
        yield Key(subject.case, subject.seed, BEFORE, sparsity)


def print_progress(cell: Cell) -> None:
    """Print a line about a cell."""
    print(
        f"{cell.key}: {cell.bytes / 1e3:,.0f} kB ({cell.percent:.1f} %), metric {cell.metric:.5f}, logloss {cell.logloss:.4f}, "
        f"rare {cell.rare:.4f}, {cell.memory / 2**20:.1f} MiB, {cell.seconds:.0f} s ({cell.cpu_seconds:.0f} s of CPU) {cell.note}",
        file=sys.stderr,
        flush=True,
    )


def read_commit(checkout: Path) -> str:
    """Return the commit of a checkout, with a plus where files differ from it."""
    run = partial(subprocess.run, cwd=checkout, capture_output=True, text=True, check=False)
    commit = run(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
    return commit + ("+" if run(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip() else "")


@click.command(help=__doc__.splitlines()[0])
@click.option("--only", default=",".join(CASES), show_default=True, help="Cases.")
@click.option("--contestants", default=";".join(CONTESTANTS), show_default=True, help="Divided by semicolons.")
@click.option(
    "--sizes", default=",".join(f"{size:g}" for size in SIZES), show_default=True, help="Percent of the dense bytes."
)
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--data-folder", default=Path("../shared/data"), show_default=True, type=click.Path(path_type=Path))
@click.option("--cache", default=Path("artifacts/quality-bytes"), show_default=True, type=click.Path(path_type=Path))
@click.option("--checkout", default=HERE, type=click.Path(path_type=Path, exists=True), help="Whose command is ours.")
@click.option(
    "--checkout-47080cf", "before", type=click.Path(path_type=Path, exists=True), help="A work tree of 47080cf."
)
@click.option("--estimate", is_flag=True, help="Print the hours of what is missing, and stop.")
@click.option("--report-only", is_flag=True, help="Measure nothing.")
@click.option("--remark", default="", help="What a reader should know of the machine, such as other work on it.")
@click.option("--write", default=DOCS, type=click.Path(path_type=Path, file_okay=False), help="Folder of results.md.")
def main(
    only: str, contestants: str, sizes: str, seeds: str, data_folder: Path, cache: Path, checkout: Path, before: Path | None,
    estimate: bool, report_only: bool, remark: str, write: Path,
) -> None:  # fmt: skip
    """Measure the missing results, then write all results."""
    torch.set_num_threads(1)
    cells = CellFolder(cache.resolve())
    names = contestants.split(";")
    if unknown := set(names) - set(CONTESTANTS):
        raise click.BadParameter(f"there is no contestant '{min(unknown)}'; choose of {'; '.join(CONTESTANTS)}.")
    if BEFORE in names and before is None and not (estimate or report_only):
        raise click.UsageError(f"'{BEFORE}' needs --checkout-47080cf, or leave it out of --contestants.")
    selection = Selection(
        cases_with_data(only.split(","), data_folder), names, [float(s) for s in sizes.split(",")],
        [int(s) for s in seeds.split(",")], {OURS: checkout, **({BEFORE: before} if before else {})},
    )  # fmt: skip
    print_estimate(selection, cells)
    if estimate:
        return
    if not report_only:
        cells.folder.mkdir(parents=True, exist_ok=True)
        for case in selection.cases:
            for seed in selection.seeds:
                measure(selection, case, seed, data_folder, cells)
    report = Report.read(cells, CASES)
    where = environment()
    table = f"{report.as_markdown()}\n{told_of_machine(where, 1)}{' ' + remark if remark else ''}"
    print(table)
    write.mkdir(parents=True, exist_ok=True)
    if find_spec("matplotlib"):
        draw(report, write / "quality-bytes.svg")
    else:
        print("The plot is not drawn again: matplotlib is not installed.", file=sys.stderr)
    text = f"{table}\n\n![Change of quality over bytes, by contestant](quality-bytes.svg)"
    write_section(write / "results.md", "Quality at equal bytes", "benchmarks/quality_bytes.py", text)
    print(json.dumps({"environment": where, "threads": 1, "figures": report.figures()}))


def print_estimate(selection: Selection, cells: CellFolder) -> None:
    """Print the CPU hours of the missing cells, by case and in total."""
    measured, total = cells.cells, 0.0
    for case in selection.cases:
        missing = [key for seed in selection.seeds for key in selection.list_missing(case, seed, cells)]
        hours = estimate_hours(missing, measured, lambda case, seed: find_checkpoint(case, seed, cells.folder).exists())
        total += hours
        print(f"{case}: about {len(missing)} cells are missing, {hours:.1f} hours of one core", file=sys.stderr)
    print(f"All: {total:.1f} hours of one core", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
