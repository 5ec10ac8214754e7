"""The section of scale.md with measurements on one machine: seconds and memory of stages as their input grows.

    python benchmarks/bench_scale.py | tail -1 >> figures.jsonl
    python benchmarks/scale_stages.py figures.jsonl [--write docs]

The section is made from the last lines of benchmarks. The figures of a benchmark whose line is missing remain as they are on the page,
and a benchmark without any figures is named. A slope is the exponent of
growth between the two largest sizes: 1 means proportional, 0 means no growth.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Any

import click
from cluster_page import format_table
from results import told_of_machine, write_section

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
# Benchmarks whose last line has a list of results, by the name in it.
OTHERS = {
    "search-jobs": ("bench_search_jobs.py", "trials in processes"),
    "streaming": ("bench_streaming.py", "rows that stream from files"),
    "large-files": ("bench_large_files.py", "commands on large files"),
    "torchrun": ("bench_torchrun.py", "several ranks on this machine"),
    "sharded-checkpoint": ("bench_sharded_checkpoint.py", "checkpoints larger than memory"),
}


def find_slope(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Return the exponent of growth between the last two sizes; None with fewer than two sizes, or for times of 0.

    >>> find_slope([10, 100], [2.0, 20.0])
    1.0
    """
    if len(sizes) < 2 or min(values[-2:]) <= 0.0:
        return None
    return log(values[-1] / values[-2]) / log(sizes[-1] / sizes[-2])


def _format_slope(sizes: Sequence[float], values: Sequence[float]) -> str:
    slope = find_slope(sizes, values)
    return "" if slope is None else f"{slope:.2f}"


def list_fields(figures: Mapping[str, Any]) -> list[list[Any]]:
    """Return a row for each step of capture to export: CPU seconds over fields."""
    by_fields = {int(number): steps for number, steps in figures.items() if steps is not None}
    sizes = sorted(by_fields)
    rows = []
    for step in ("capture", "analyze", "plan", "apply", "check", "export"):
        values = [by_fields[size][step] for size in sizes]
        cells = ", ".join(f"{size:,}: {value:.2f} s" for size, value in zip(sizes, values, strict=True))
        rows.append([step, "fields", cells, _format_slope(sizes, values)])
    return rows


def list_rows(figures: Mapping[str, Any]) -> list[list[Any]]:
    """Return rows for a whole job over the rows of its long table: CPU seconds, and the peak as a multiple of the model."""
    by_rows = {int(number): job for number, job in figures.items() if job is not None}
    sizes = sorted(by_rows)
    seconds = [sum(stage["cpu_seconds"] for stage in by_rows[size]["trace"].values()) for size in sizes]
    peaks = [max(stage["peak_bytes"] for stage in by_rows[size]["trace"].values()) for size in sizes]
    models = [by_rows[size]["model_bytes"] for size in sizes]
    jobs = ", ".join(f"{size:.0e}: {value:.0f} s" for size, value in zip(sizes, seconds, strict=True))
    memory = ", ".join(
        f"{size:.0e}: {peak / 1e6:,.0f} MB ({peak / model:.1f} models)"
        for size, peak, model in zip(sizes, peaks, models, strict=True)
    )
    return [
        ["the main job, CPU", "rows of a table x 32", jobs, _format_slope(sizes, seconds)],
        ["the main job, peak memory", "rows of a table x 32", memory, _format_slope(sizes, peaks)],
    ]


def list_results(results: Iterable[Mapping[str, Any]]) -> str:
    """Return the scalar figures of a list of results as a table, without wall-clock times, which include other work."""
    scalars = [
        {k: v for k, v in r.items() if isinstance(v, int | float | str) and not k.startswith("wall_")} for r in results
    ]
    head = list(dict.fromkeys(name for r in scalars for name in r))
    return format_table(head, ([_format_cell(r.get(name, "")) for name in head] for r in scalars))


def list_jobs(jobs: Sequence[Mapping[str, Any]]) -> str:
    """Return the quality of each number of processes as a table, and whether the plan has the widths of one process."""
    return format_table(
        ["processes", "AUC of train", "AUC after the main job", "widths as with one process"],
        (
            [
                j["processes"],
                f"{j['train_auc']:.5f}",
                f"{j['job_auc']:.5f}",
                "yes" if j["widths"] == jobs[0]["widths"] else "no",
            ]
            for j in jobs
        ),
    )


def _format_cell(value: Any) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def find_part(page: str, script: str) -> str | None:
    """Return the paragraph on a benchmark and the table after it; None if the page has no figures of it.

    >>> find_part("Ranks (`benchmarks/a.py`). 2 cores.\\n\\n| ranks |\\n\\nRows (`benchmarks/b.py`).", "a.py")
    'Ranks (`benchmarks/a.py`). 2 cores.\\n\\n| ranks |'
    """
    parts = page.split("\n\n")
    for part, table in pairwise(parts):
        if f"(`benchmarks/{script}`)" in part and table.startswith("|"):
            content, _, _ = table.partition("\n<!--")  # the end of the section
            return f"{part}\n\n{content}"
    return None


@click.command(help=__doc__.splitlines()[0])
@click.argument("figures", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--write", type=click.Path(path_type=Path, file_okay=False), help="Folder of scale.md.")
def main(figures: Path, write: Path | None) -> None:
    """Print or write the section."""
    lines = [json.loads(line) for line in figures.read_text().splitlines() if line.startswith("{")]
    reports = {report["benchmark"]: report for report in lines}
    page = PAGE.read_text()
    parts = []
    if "scale" in reports:
        scale = reports["scale"]
        rows = [row for found in scale["fields"].values() for row in list_fields(found)]
        rows += [row for found in scale["rows"].values() for row in list_rows(found)]
        parts.append(
            f"Stages, in CPU seconds (`benchmarks/bench_scale.py`); the jobs of long tables read {scale['data_rows']:,} rows of data. "
            f"{told_of_machine(scale['environment'], 1)}"
        )
        parts.append(format_table(["stage", "as these grow", "measured", "slope"], rows))
    else:
        missing = "**Not in this table yet:** stages by fields and rows, `python benchmarks/bench_scale.py`."
        parts.append(find_part(page, "bench_scale.py") or missing)
    for name, (script, what) in OTHERS.items():
        if reports.get(name, {}).get("results"):
            machine = told_of_machine(reports[name]["environment"], 1)
            parts.append(f"{what[0].upper()}{what[1:]} (`benchmarks/{script}`). {machine}")
            parts.append(list_results(reports[name]["results"]))
        else:
            missing = f"**Not in this table yet:** {what}, `python benchmarks/{script}`."
            parts.append(find_part(page, script) or missing)
    if reports.get("torchrun", {}).get("jobs"):
        machine = told_of_machine(reports["torchrun"]["environment"], 1)
        parts.append(f"`train` and the main job under torchrun (`benchmarks/bench_torchrun.py --data`). {machine}")
        parts.append(list_jobs(reports["torchrun"]["jobs"]))
    else:
        parts.append(find_part(page, "bench_torchrun.py --data") or "")
    text = "\n\n".join(filter(None, parts))
    print(text)
    if write is not None:
        write_section(write / "scale.md", "Measured on this machine", "benchmarks/scale_stages.py", text)


if __name__ == "__main__":
    main()
