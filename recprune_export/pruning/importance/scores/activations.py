"""What a group's channels hold on calibration data, request by request."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor, fx

from recprune_export.program.program import Program
from recprune_export.pruning.statistics.moments import ActivationSite, channel_positions


@dataclass(frozen=True, eq=False)
class ResolvedSite:
    """A value of the graph that holds a group: on which axis, at which `positions` [occurrences, D], and the batch axis.

    `batch_axis` is None where the value is the same for every request.
    """

    node: fx.Node
    axis: int
    positions: Tensor
    batch_axis: int | None

    def channels_by_request(self, value: Tensor, rows: int) -> Tensor:
        """Return the channels of each request, [rows, places, D]; one row where all requests share the value."""
        wide = self._wide(value, rows)
        occurrences, width = self.positions.shape
        picked = wide.index_select(-1, self.positions.reshape(-1))
        return picked.reshape(len(wide), -1, occurrences, width).reshape(len(wide), -1, width)

    def permute_channel(self, value: Tensor, channel: int, order: Tensor) -> Tensor:
        """Return the value with one channel of the requests in another order."""
        if self.batch_axis is None:
            return value
        wide, own = self._wide(value, len(order)).clone(), self.positions[:, channel]
        wide[..., own] = wide[order][..., own]
        moved = self._moved(value)
        return wide.reshape(moved.shape).movedim((0, -1), (self.batch_axis, self.axis))

    def _wide(self, value: Tensor, rows: int) -> Tensor:
        """[rows, places, size of the axis]."""
        moved = self._moved(value)
        return moved.reshape(1 if self.batch_axis is None else rows, -1, moved.shape[-1])

    def _moved(self, value: Tensor) -> Tensor:
        if self.batch_axis is None:
            return value.movedim(self.axis, -1)
        return value.movedim((self.batch_axis, self.axis), (0, -1))


def resolve_sites(program: Program, sites: Mapping[str, Collection[ActivationSite]]) -> dict[str, list[ResolvedSite]]:
    """Look up for each group its points in the graph."""
    nodes = {node.name: node for node in program.module.graph.nodes}

    def place(name: str, point: ActivationSite) -> ResolvedSite:
        node = nodes[point.node]
        varying = [axis for axis, size in enumerate(node.meta["val"].shape) if not isinstance(size, int)]
        positions = channel_positions(program.analysis, program.analysis.group(name), point)
        return ResolvedSite(node, point.axis, positions, varying[0] if varying else None)

    return {name: [place(name, point) for point in own] for name, own in sites.items()}
