"""What `inspect --scores` says."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from recprune_export.console.inspection import print_inspection
from recprune_export.console.tables import make_console, make_table, print_json

if TYPE_CHECKING:
    from recprune_export.inspection import Inspection
    from recprune_export.pruning.importance.sensitivity import Sensitivity


def print_scores(inspection: "Inspection", sensitivities: "Sensitivity", *, as_json: bool) -> None:
    """Show what the inspection found, what each score says of each group, and what is lost at smaller widths."""
    from recprune_export.pruning.importance.sensitivity import SHARES

    if as_json:
        return print_json({**inspection.to_dict(), "sensitivity": sensitivities.to_dict()})
    print_inspection(inspection, as_json=False)
    console = make_console()
    losses = make_table(
        "Lost by output error, as a fraction of what the group means",
        *("group", "width", "means", *(f"1/{share} stays" for share in SHARES), "rotated"),
    )
    for group in sensitivities.groups:
        cells = [f"{group.relative_loss(share):.2%} ({group.width_at(share)})" for share in SHARES]
        losses.add_row(
            group.group, str(group.width), f"{group.losses[0]:.2e}", *cells, "yes" if group.rotated else "no"
        )
    console.print(losses)
    names = list(sensitivities.groups[0].quantiles)
    for group in sensitivities.groups:
        table = make_table(
            f"{group.group}, {group.width} channels", "score", "from best to worst", "median", "last tenth", ""
        )
        for name, quantiles in group.quantiles.items():
            rho = group.agreement.get((name, names[0]))
            agrees = "" if rho is None else f"agrees with {names[0]} {rho:+.2f}"
            cells = [f"{quantiles[len(quantiles) // 2]:.1%}", f"{quantiles[round(0.9 * (len(quantiles) - 1))]:.1%}"]
            table.add_row(name, _sketch(quantiles), *cells, agrees)
        console.print(table)
    agreement = make_table(
        "Rank agreement of scores (Spearman), mean over groups", "", *(name.replace("-", "-\n") for name in names)
    )
    for one in names:
        correlations = [sensitivities.agreement(one, other) for other in names]
        agreement.add_row(one, *("" if rho is None else f"{rho:+.2f}" for rho in correlations))
    console.print(agreement)


def _sketch(values: Sequence[float]) -> str:
    """Bars for fractions of 1.

    >>> _sketch([1.0, 0.5, 0.0])
    '█▅▁'
    """
    bars = "▁▂▃▄▅▆▇█"
    return "".join(bars[round(value * (len(bars) - 1))] for value in values)
