"""Pictures of what the commands find, as SVG files that need nothing else. matplotlib is imported when one is drawn."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recprune_export.errors import UsageError

if TYPE_CHECKING:
    from recprune_export.pruning.sensitivity import GroupSensitivity, Sensitivity
    from recprune_export.search.sweep import Sweep

COLUMNS = 4
INK, FAINT = "#1f2933", "#9aa5b1"
COLOURS = {"embedding": "#0b6e99", "hidden": "#b7500b"}
FLOOR = 1e-5  # of what a group means; less is drawn there


def draw_losses(sensitivity: "Sensitivity", path: Path, title: str) -> None:
    """Draw for each group what is lost at each width, one panel a group, all on the same axes.

    Raises `UsageError` where matplotlib is missing or the file cannot be written.
    """
    _save(losses_figure(sensitivity, title), path)


def draw_sweep(found: "Sweep", path: Path) -> None:
    """Draw the change of quality with its interval, the size, and the speed-up by batch size, over sparsity.

    Raises `NoMatplotlib`, or `UsageError` where the file cannot be written.
    """
    _save(sweep_figure(found), path)


def sweep_figure(found: "Sweep") -> Any:
    """Return the figure, for `draw_sweep`, or for a notebook."""
    figure_class = _figure_class()
    x = [trial.sparsity for trial in found.trials]
    artifacts = [trial.artifact for trial in found.trials if trial.artifact is not None]
    changes = [trial.change for trial in found.trials]
    figure = figure_class(figsize=(7.0, 8.0), layout="tight")
    quality, size, speed = figure.subplots(3, 1, sharex=True)
    errors = [[c.change - c.low for c in changes], [c.high - c.change for c in changes]]
    quality.errorbar(x, [c.change for c in changes], yerr=errors, marker="o", capsize=3)
    quality.axhline(0.0, color="grey", linewidth=0.8)
    quality.set_ylabel(f"change of {changes[0].metric}\non validation rows")
    size.plot(x, [a.bytes / 1e6 for a in artifacts], marker="o")
    size.set_ylabel("MB of the ONNX file")
    size.set_ylim(bottom=0.0)
    for batch in artifacts[0].speedup:
        speed.plot(x, [a.speedup[batch].estimate for a in artifacts], marker="o", label=f"batch {batch}")
    speed.set_ylabel("times as fast as\ndense in ONNX Runtime")
    speed.axhline(1.0, color="grey", linewidth=0.8)
    speed.legend(frameon=False)
    speed.set_xlabel("sparsity")
    for panel in (quality, size, speed):
        panel.grid(alpha=0.3)
        if found.knee is not None:
            panel.axvline(x[found.knee], color="tab:red", linestyle=":", label="knee")
    if found.knee is not None:
        quality.annotate(
            f"knee at {x[found.knee]:g}", (x[found.knee], 0.0), xycoords=("data", "axes fraction"),
            xytext=(4, 6), textcoords="offset points", color="tab:red",
        )  # fmt: skip
    return figure


class NoMatplotlib(UsageError):
    """matplotlib is not installed."""


def _figure_class() -> Any:
    try:
        from matplotlib import figure
    except ImportError as error:
        raise NoMatplotlib("The plot needs matplotlib: pip install 'recprune-export[plots]'.") from error
    return figure.Figure


def _save(figure: Any, path: Path) -> None:
    from matplotlib import rc_context

    try:
        with rc_context({"svg.hashsalt": "recprune-export"}):  # the same ids in the file each time
            figure.savefig(path, format="svg", metadata={"Date": None})
    except OSError as error:
        raise UsageError(f"The plot cannot be written to {path}: {error.strerror}.") from error


def losses_figure(sensitivity: "Sensitivity", title: str) -> Any:
    """Return the figure, for `draw_losses`, or for a notebook."""
    figure_class = _figure_class()
    from matplotlib import rc_context

    groups = sensitivity.groups
    rows = max(1, math.ceil(len(groups) / COLUMNS))
    columns = max(1, math.ceil(len(groups) / rows))  # the last row is not much shorter than the others
    with rc_context({"font.size": 8.5, "axes.edgecolor": FAINT, "text.color": INK}):
        figure = figure_class(figsize=(2.6 * columns + 0.5, 1.9 * rows + 1.1), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        figure.supxlabel("channels kept, as a fraction of the width", fontsize=9)
        figure.supylabel("lost, as a fraction of what the group means", fontsize=9)
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
        for panel, group in zip(panels, groups, strict=False):
            _draw(panel, group)
        for number in range(len(groups), len(panels)):
            panels[number].set_visible(False)
            panels[number - columns].tick_params(labelbottom=True)
    return figure


def _draw(panel: Any, group: "GroupSensitivity") -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    from recprune_export.pruning.sensitivity import SHARES

    colour = COLOURS[group.kind]
    all_lost = group.losses[0] or 1.0
    kept = [k / group.width for k in range(1, group.width + 1)]
    lost = [max(loss / all_lost, FLOOR) for loss in group.losses[1:]]
    panel.plot(kept, lost, color=colour, linewidth=1.6)
    for share in SHARES:
        x, y = group.kept(share) / group.width, group.lost(share)
        panel.plot([x], [max(y, FLOOR)], "o", color=colour, markersize=3.5)
        if y > FLOOR:
            panel.annotate(f"{100 * y:.2g} %", (x, y), (4, 3), textcoords="offset points", fontsize=7)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xlim(1 / 24, 1.1)
    panel.set_ylim(FLOOR * 0.7, 6.0)
    panel.xaxis.set_major_locator(FixedLocator([1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_minor_locator(NullLocator())
    panel.set_xticklabels(["1/16", "1/8", "1/4", "1/2", "1"])
    panel.yaxis.set_major_locator(FixedLocator([1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]))
    panel.set_yticklabels(["≤ 0.001 %", "0.01 %", "0.1 %", "1 %", "10 %", "100 %"])
    panel.grid(True, color="#e4e7eb", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_title(_shortened(group.group), loc="left", fontsize=8.5, color=INK)
    words = (
        f"{group.width} {'dimensions' if group.kind == 'embedding' else 'units'}{', rotated' if group.rotated else ''}"
    )
    panel.text(0.0, 0.98, f" {words}", transform=panel.transAxes, va="top", fontsize=7, color=colour)


def _shortened(name: str, longest: int = 32) -> str:
    """Leave out the first parts of a long dotted name.

    >>> _shortened("embeddings.tables.field0_user.weight:1")
    '…tables.field0_user.weight:1'
    """
    parts = name.split(".")
    kept = parts
    while len(".".join(kept)) > longest and len(kept) > 2:
        kept = kept[1:]
    return name if kept is parts else "…" + ".".join(kept)
