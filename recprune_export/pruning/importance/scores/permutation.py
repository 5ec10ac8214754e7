"""Permutation importance: the error of the outputs when a channel is permuted over requests."""

import torch
from torch import Tensor, fx

from recprune_export.program.recorder import ValueRecorder
from recprune_export.pruning.importance.scores.activations import ResolvedSite, resolve_sites
from recprune_export.pruning.importance.scores.score_inputs import ScoreInputs
from recprune_export.pruning.statistics.activation_sites import find_producer_sites


def permutation(inputs: ScoreInputs) -> dict[str, Tensor]:
    """Return the distance of the outputs from the original ones when the channel is permuted over a batch's requests.

    Breiman 2001, "Random Forests", section 10, for channels in place of features. The original outputs replace the
    labels: without the labels' noise, fewer rows show a loss.

    The cost is one run per channel of the nodes after it in the graph, on 512 rows, fewer where there are more than
    2,000 channels.
    """
    total_rows = 1 << 20  # rows evaluated, over all channels
    min_rows = 64
    max_rows = 512
    groups = inputs.program.analysis.groups
    channels = sum(group.width for group in groups)
    row_limit = max(min_rows, min(max_rows, total_rows // max(channels, 1)))
    request = {name: values[:row_limit] for name, values in inputs.batches[0][0].items()}
    rows = len(next(iter(request.values())))
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(inputs.seed))
    recording = ValueRecorder(inputs.program)(request)
    original = recording.answers
    values = {node: recording.values[node.name] for node in inputs.program.module.graph.nodes}
    sites = resolve_sites(inputs.program, find_producer_sites(inputs.program))
    scores = {}
    with torch.no_grad():
        baseline = inputs.distance(original, original)
        for group in groups:
            rerun = _Rerun(inputs.program.module, values, sites[group.name])
            names = [o.name for o in inputs.program.signature.outputs]
            answers = (dict(zip(names, rerun.without(c, order), strict=True)) for c in range(group.width))
            rises = [inputs.distance(answer, original) - baseline for answer in answers]
            scores[group.name] = torch.stack(rises).double().clamp_min(0.0)
    return scores


class _Rerun(fx.Interpreter):
    """An interpreter that reruns the nodes after a group's sites, with the known `values` of all other nodes.

    It is not a `ValueRecorder`, because it changes values during the run and starts in the middle of the graph.
    """

    def __init__(self, module: fx.GraphModule, values: dict[fx.Node, Tensor], sites: list[ResolvedSite]) -> None:
        super().__init__(module, garbage_collect_values=False)
        self._places = {place.node: place for place in sites}
        reached: set[fx.Node] = set()
        self._first: set[fx.Node] = set()
        for node in module.graph.nodes:
            after = any(source in reached for source in node.all_input_nodes)
            if node in self._places and not after:
                self._first.add(node)
            if node in self._places or after:
                reached.add(node)
        self._known = {node: value for node, value in values.items() if node not in reached or node in self._first}
        self._channel, self._order = 0, torch.zeros(0, dtype=torch.int64)

    def without(self, channel: int, order: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs with one channel in another order."""
        self._channel, self._order = channel, order
        changed = {node: self._shuffled(node, self._known[node]) for node in self._first}
        answers: tuple[Tensor, ...] = self.run(initial_env={**self._known, **changed})
        return answers

    def run_node(self, n: fx.Node) -> Tensor:
        return self._shuffled(n, super().run_node(n))

    def _shuffled(self, node: fx.Node, value: Tensor) -> Tensor:
        place = self._places.get(node)
        return value if place is None else place.permute_channel(value, self._channel, self._order)
