"""Activations of a group's channels on calibration data, by request."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor, fx

from recprune_export.program.program import Program
from recprune_export.pruning.statistics.moments import ActivationSite, channel_positions


@dataclass(frozen=True, eq=False)
class ResolvedSite:
    """A value of the graph that holds a group: its axis, the channels' `positions` [occurrences, D], and the batch axis.

    `batch_axis` is None if the value is the same for every request.
    """

    node: fx.Node
    axis: int
    positions: Tensor
    batch_axis: int | None

    def channels_by_request(self, value: Tensor, rows: int) -> Tensor:
        """Return the channels of each request, [rows, n, D]; one row where all requests share the value."""
        flat = self._flatten(value, rows)
        occurrences, width = self.positions.shape
        selected = flat.index_select(-1, self.positions.reshape(-1))
        return selected.reshape(len(flat), -1, occurrences, width).reshape(len(flat), -1, width)

    def permute_channel(self, value: Tensor, channel: int, order: Tensor) -> Tensor:
        """Return the value with one channel permuted over the requests."""
        if self.batch_axis is None:
            return value
        flat, indices = self._flatten(value, len(order)).clone(), self.positions[:, channel]
        flat[..., indices] = flat[order][..., indices]
        moved = self._moved(value)
        return flat.reshape(moved.shape).movedim((0, -1), (self.batch_axis, self.axis))

    def _flatten(self, value: Tensor, rows: int) -> Tensor:
        """Return the value as [rows, n, size of the axis]."""
        moved = self._moved(value)
        return moved.reshape(1 if self.batch_axis is None else rows, -1, moved.shape[-1])

    def _moved(self, value: Tensor) -> Tensor:
        if self.batch_axis is None:
            return value.movedim(self.axis, -1)
        return value.movedim((self.batch_axis, self.axis), (0, -1))


def resolve_sites(program: Program, sites: Mapping[str, Collection[ActivationSite]]) -> dict[str, list[ResolvedSite]]:
    """Resolve each group's sites to nodes and positions in the graph."""
    nodes = {node.name: node for node in program.module.graph.nodes}

    def resolve(name: str, site: ActivationSite) -> ResolvedSite:
        node = nodes[site.node]
        varying = [axis for axis, size in enumerate(node.meta["val"].shape) if not isinstance(size, int)]
        positions = channel_positions(program.analysis, program.analysis.group(name), site)
        return ResolvedSite(node, site.axis, positions, varying[0] if varying else None)

    return {name: [resolve(name, site) for site in group_sites] for name, group_sites in sites.items()}
