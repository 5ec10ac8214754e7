"""The picture of the README: quality and speed over bytes, of each tool, from the JSON of `peers.py`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from bytes_files import DENSE, OURS, SMALL
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from peer_files import OLIVE_INT4, OLIVE_INT8, ONNXSIM, OURS_SPARSE, SIMPLIFIED, TORCH_PRUNING

HEADINGS = {"frappe/dlrm": "Worst case: DLRM on Frappe", "anime/dlrm": "Best case: DLRM on anime ratings"}
# Label, color and marker; colors are those of Okabe and Ito, which the color-blind tell apart.
STYLES = {
    (OURS, 10.0): ("recprune-export --max-bytes 10%", "#D55E00", "o"),
    (OURS_SPARSE, 0.7): ("recprune-export --sparsity 0.7, int8", "#D55E00", "s"),
    (SMALL, 10.0): ("smaller model from scratch, int8", "#0072B2", "^"),
    (TORCH_PRUNING, 0.0): ("Torch-Pruning, tuned, int8", "#009E73", "v"),
    (OLIVE_INT4, 0.0): ("Olive, int4 tables", "#CC79A7", "D"),
    (OLIVE_INT8, 0.0): ("Olive, int8", "#CC79A7", "P"),
    (ONNXSIM, 0.0): ("onnxsim, pruned and int8", "#56B4E9", "X"),
    (SIMPLIFIED, 0.0): ("onnxsim, simplified", "#56B4E9", "p"),
    (DENSE, 0.0): ("dense, fp32", "black", "*"),
}


def draw(figures: Mapping[str, Sequence[Mapping[str, Any]]], batch: int, path: Path) -> None:
    """Draw two panels for each case, on white, so that it reads on light and on dark pages.

    `figures` are those of the JSON line: by case, a list of contestants. Speed is that of requests of `batch` rows.
    """
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "peers"})
    figure, axes = plt.subplots(
        2, len(figures), figsize=(4.3 * len(figures), 5.6), sharex=True, sharey="row", squeeze=False
    )
    handles: dict[str, Any] = {}
    for column, (case, contestants) in zip(axes.T, figures.items(), strict=True):
        known = {(each["contestant"], each["point"]): each for each in contestants}
        column[0].set_title(HEADINGS.get(case, case), fontsize=10, fontweight="bold")
        for key, (label, color, marker) in STYLES.items():
            if key in known:
                _draw_contestant(column, known[key], batch, handles, label, color, marker)
        column[0].axhline(0.0, color="grey", linewidth=0.6, zorder=0)
        column[1].axhline(1.0, color="grey", linewidth=0.6, zorder=0)
        column[1].set_xlabel("bytes of the ONNX file, % of the dense one")
    for axis in axes.flat:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(FixedLocator([5, 10, 20, 30, 50, 100]))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("change of the AUC")
    axes[1][0].set_ylabel(f"times faster than dense,\nbatch {batch}")
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=3, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0.0, 0.11, 1.0, 1.0))
    figure.savefig(path, facecolor="white", metadata={"Date": None})
    plt.close(figure)


def _draw_contestant(
    axes: Sequence[Any],
    figures: Mapping[str, Any],
    batch: int,
    handles: dict[str, Any],
    label: str,
    color: str,
    marker: str,
) -> None:
    """Draw a point with its interval in the panel of quality and in that of speed."""
    change = figures["change"] or {"value": 0.0, "low": 0.0, "high": 0.0}
    speed = figures["times faster"][str(batch)]
    points = ((change["value"], change["low"], change["high"]), (speed["estimate"], speed["low"], speed["high"]))
    for axis, (value, low, high) in zip(axes, points, strict=True):
        handles[label] = axis.errorbar(
            figures["percent"], value, [[max(0.0, value - low)], [max(0.0, high - value)]], color=color, marker=marker,
            markersize=8, markeredgecolor="white", markeredgewidth=0.7, linestyle="none", elinewidth=1.0,
        )  # fmt: skip
