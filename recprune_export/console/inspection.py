"""What `inspect` says of a model."""

from typing import TYPE_CHECKING, Any

from recprune_export.console.tables import make_console, make_table, print_json

if TYPE_CHECKING:
    from recprune_export.inspection import Inspection


def print_inspection(inspection: "Inspection", *, as_json: bool) -> None:
    """Show inputs, parameters, groups and frozen axes."""
    if as_json:
        return print_json(inspection.to_dict())
    console = make_console()
    signature = inspection.signature
    tensors = make_table(f"{inspection.name}: {inspection.kind}", "", "name", "dtype", "shape", "ids")
    for kind, tensor in [("input", t) for t in signature.to_dict()["inputs"]] + [
        ("output", t) for t in signature.to_dict()["outputs"]
    ]:
        shape = " × ".join(str(size) for size in tensor["shape"])
        tensors.add_row(kind, tensor["name"], tensor["dtype"], shape, _ids(tensor.get("ids", [])))
    console.print(tensors)
    sizes = inspection.sizes
    console.print(
        f"Parameters: {sizes.tables:,} in tables, {sizes.rest:,} in the rest. {inspection.summary}",
        highlight=False,
    )
    groups = make_table("Channel groups", "group", "kind", "width", "lies on")
    for group in inspection.groups:
        axes = [f"{tensor}:{axis}" for tensor, axis in group.axes()]
        more = f" and {len(axes) - 3} more" if len(axes) > 3 else ""
        groups.add_row(group.name, group.kind, str(group.width), ", ".join(axes[:3]) + more)
    console.print(groups)
    if inspection.fields is not None:
        fields = make_table("Fields", "field", "parameters that go with it", "")
        for finding in inspection.fields:
            why = finding.frozen
            told = "can go" if why is None else f"stays: {why.text}" + (f" ({why.source})" if why.source else "")
            fields.add_row(finding.name, f"{finding.parameters:,}" if why is None else "", told)
        console.print(fields)
    if inspection.frozen:
        frozen = make_table("Frozen", "reason", "axes (indices)")
        for reason, found in inspection.frozen_by_reason().items():
            places = ", ".join(f"{axis.tensor}:{axis.axis} ({axis.count})" for axis in found[:4])
            frozen.add_row(reason, places + (f" and {len(found) - 4} more" if len(found) > 4 else ""))
        console.print(frozen)


def _ids(ranges: list[Any]) -> str:
    words = ["–" if pair is None else f"{pair[0]} to {pair[1]}" for pair in ranges]
    return "; ".join(words[:4]) + (f" and {len(words) - 4} more" if len(words) > 4 else "")
