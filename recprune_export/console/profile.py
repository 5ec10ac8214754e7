"""What `profile` says."""

from typing import TYPE_CHECKING

from recprune_export.console.tables import make_console, make_table, print_json

if TYPE_CHECKING:
    from recprune_export.onnx.cost.profiler import Profile


def print_profile(profile: "Profile", nodes: int, *, as_json: bool) -> None:
    """Name the most expensive nodes, the slowest first."""
    if as_json:
        return print_json(profile.to_dict())
    table = make_table(
        f"Batch {profile.batch}, {profile.requests} requests: {profile.milliseconds:.3f} ms in the nodes, "
        f"floor {profile.floor:.3f} ms",
        "node",
        "operator",
        "ms",
        "share",
        "floor, ms",
    )
    for node in profile.nodes[:nodes]:
        table.add_row(node.name, node.operator, f"{node.milliseconds:.4f}", f"{node.share:.1%}", f"{node.floor:.4f}")
    rest = profile.nodes[nodes:]
    if rest:
        share = sum(node.share for node in rest)
        table.add_row(f"{len(rest)} more", "", f"{sum(n.milliseconds for n in rest):.4f}", f"{share:.1%}", "")
    make_console().print(table)
