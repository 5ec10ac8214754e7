"""The section and the picture of scale.md, from the report of `simulate_cluster.py`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from results import told_of_machine


def format_section(report: dict[str, Any]) -> str:
    """Return the section of scale.md."""
    return "\n\n".join(
        [*_describe_measured(report), *_describe_steps(report), *_describe_memory(report), _format_limits(report)]
    )


def _describe_measured(report: dict[str, Any]) -> list[str]:
    rates, check = report["rates"], report["check"]
    measured = (
        f"**Measured** on one core, in CPU time: {rates['flops'] / 1e9:.0f} GFLOP/s in layers at "
        "batch 1,024; "
        f"{1e9 * rates['row_seconds']:,.0f} ns to look up a row of {report['model']['width']} numbers and to update it with both moments; "
        f"{1e9 * rates['id_seconds']:.0f} ns for each id to remove duplicates. "
        f"{told_of_machine(report['environment'], 1)}"
    )
    if check is None:
        return [
            measured,
            "The bytes are not compared with those of real processes: this checkout has no `recprune_export.distributed`.",
        ]
    counted, predicted = (" and ".join(f"{b:,}" for b in check[f"{kind}_bytes"]) for kind in ("counted", "predicted"))
    compared = (
        f"**Measured** with {check['ranks']} processes, gloo on loopback: a lookup and its backward pass by `sharded_lookup` send "
        f"{counted} bytes; the cost model predicts {predicted}."
    )
    return [measured, compared]


def _describe_steps(report: dict[str, Any]) -> list[str]:
    (long_rows, *short), batch, results = report["model"]["tables"], report["batch"], report["results"]
    ranks, tables = results[-1]["ranks"], 1 + len(short)
    balance = ", ".join(f"{name} {value:.2f}" for name, value in report["balance"].items())
    return [
        f"**Simulated** from here on: a table of {long_rows:.0e} rows and {len(short)} of {short[0]:.0e}, {report['model']['width']} "
        f"numbers wide, one id of each in a row of data; layers of {report['model']['dense_parameters']:,} parameters; {batch:,} rows "
        "of a batch and one core for each rank; the probability of an id is proportional to 1 / id; communication and "
        "computation do not overlap.",
        "![Seconds of a step and memory of a rank, over the number of ranks](scale.svg)",
        format_table(
            ["ranks", "fabric", *results[0]["seconds"], "step, ms", "rows a second", "10^9 rows of data", "10^10"],
            (
                [r["ranks"], r["fabric"], *(f"{1e3 * s:.1f}" for s in r["seconds"].values()), f"{1e3 * r['step_seconds']:.0f}",
                 f"{r['rows_a_second']:,.0f}", f"{r['epoch_seconds'] / 3600:.1f} h", f"{10 * r['epoch_seconds'] / 3600:.0f} h"]
                for r in results
            ),
        ),
        "Bytes that the busiest rank sends in a step: for lookups by all-to-all of distinct ids and rows (used here), for lookups by "
        "all-reduce of rows, and for the gradients of the layers:",
        format_table(
            ["ranks", "all-to-all, MB", "all-reduce of rows, MB", "layers, MB"],
            (
                [r["ranks"], f"{r['sent_bytes'] / 1e6:.1f}", f"{r['all_reduce_of_rows_bytes'] / 1e6:,.0f}",
                 f"{r['layers_bytes'] / 1e6:.1f}"]
                for r in results[: len({r["ranks"] for r in results})]
            ),
        ),
        f"Of the {batch * tables:,} ids of a rank, {results[-1]['different']:,} are distinct, and only these are sent. Ratio of "
        f"the rows that the busiest of {ranks} ranks looks up to the mean: {balance}. recprune-export shards "
        "cyclically: row r is on rank r mod N.",
        f"Rows of a batch, at {ranks} ranks. `--batch-size` counts the rows of all ranks together, 1,024 by default:",
        format_table(
            ["batch size", "rows of a rank", "fabric", "step, ms", "part of messages", "rows a second", "10^9 rows of data"],
            (
                [f"{ranks * r['batch']:,}", f"{r['batch']:,}", r["fabric"], f"{1e3 * r['step_seconds']:.0f}", _format_messages(r),
                 f"{r['rows_a_second']:,.0f}", f"{r['epoch_seconds'] / 3600:.1f} h"]
                for r in report["batches"]
            ),
        ),
        f"One parameter of the model is changed, at {ranks} ranks and 25 Gbit/s:",
        format_table(
            ["model", "step, ms", "part of messages", "MB sent for lookups", "GB of a rank"],
            (
                [v["name"], f"{1e3 * v['step_seconds']:.0f}", _format_messages(v), f"{v['sent_bytes'] / 1e6:.1f}",
                 f"{v['memory_bytes'] / 1e9:.1f}"]
                for v in report["variants"]
            ),
        ),
    ]  # fmt: skip


def _format_messages(step: dict[str, Any]) -> str:
    return f"{100 * step['seconds']['messages'] / step['step_seconds']:.0f} %"


def _describe_memory(report: dict[str, Any]) -> list[str]:
    parts, checkpoint = list(report["memory"][0]["bytes"]), report["checkpoint"]
    return [
        "GB of a rank after 10^9 rows of data. Moments use memory only in pages that were written:",
        format_table(
            ["ranks", *parts, "together"],
            (
                [m["ranks"], *(f"{v / 1e9:.2f}" for v in m["bytes"].values()), f"{sum(m['bytes'].values()) / 1e9:.1f}"]
                for m in report["memory"]
            ),
        ),
        f"A checkpoint of {report['results'][-1]['ranks']} ranks in shards, with both moments: {checkpoint['bytes'] / 1e9:.1f} GB for each "
        f"rank, {checkpoint['bytes'] / checkpoint['bytes_a_second']:.0f} s at {checkpoint['bytes_a_second'] / 1e9:.0f} GB/s of its disk.",
    ]  # fmt: skip


def _format_limits(report: dict[str, Any]) -> str:
    return format_table(
        ["what breaks first", "at which number", "what to change"], (row.values() for row in report["limits"])
    )


def format_table(head: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def draw_picture(report: dict[str, Any], limit: float, path: Path) -> None:
    """Draw seconds of a step by their cause for each fabric, and memory of a rank with its `limit`, over the number of ranks."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    results, memory = report["results"], [m["bytes"] for m in report["memory"]]
    fabrics, ranks = list(dict.fromkeys(r["fabric"] for r in results)), [m["ranks"] for m in report["memory"]]
    figure, axes = plt.subplots(1, len(fabrics) + 1, figsize=(12.6, 3.8))
    for panel, fabric in zip(axes, fabrics, strict=False):
        _stack(panel, [r["seconds"] for r in results if r["fabric"] == fabric])
        panel.set_title(fabric, fontsize=9)
        panel.set_ylabel("seconds of a step")
        panel.set_ylim(0, 1.1 * max(r["step_seconds"] for r in results))
        panel.legend(fontsize=8, frameon=False, loc="upper left")
    panel = axes[-1]
    for name in memory[0]:
        panel.plot(range(len(ranks)), [m[name] / 2**30 for m in memory], "-o", markersize=3, label=name)
    panel.plot(range(len(ranks)), [sum(m.values()) / 2**30 for m in memory], "-", color="black", label="together")
    panel.axhline(limit / 2**30, color="grey", linewidth=0.8, linestyle="--", label=f"{limit / 2**30:.0f} GiB")
    panel.set_title("memory of a rank after 10^9 rows of data", fontsize=9)
    panel.set_ylabel("GiB")
    panel.set_yscale("log")
    panel.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for panel in axes:
        panel.set_xticks(range(len(ranks)), [str(n) for n in ranks])
        panel.set_xlabel("ranks")
    figure.suptitle(f"Simulated: {report['batch']:,} rows of a batch and one core for each rank", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def _stack(panel: Any, bars: Sequence[dict[str, float]]) -> None:
    bottom = np.zeros(len(bars))
    for number, name in enumerate(bars[0]):
        heights = np.array([bar[name] for bar in bars])
        panel.bar(range(len(bars)), heights, bottom=bottom, label=name, color=f"C{number}")
        bottom += heights
