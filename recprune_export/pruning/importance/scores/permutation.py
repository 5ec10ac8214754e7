"""Permutation: what the answers lose when they get a channel of other requests."""

import torch
from torch import Tensor, fx

from recprune_export.program.recorder import ValueRecorder
from recprune_export.pruning.importance.scores.activations import ResolvedSite, resolve_sites
from recprune_export.pruning.importance.scores.score_inputs import ScoreInputs
from recprune_export.pruning.statistics.activation_sites import find_producer_sites

MOST_ROWS = 512
FEWEST_ROWS = 64
BUDGET = 1 << 20  # rows answered, over all channels


def permutation(inputs: ScoreInputs) -> dict[str, Tensor]:
    """Rise of the distance from the program's own answers when the channel is permuted over the requests of a batch.

    Breiman 2001, "Random Forests", section 10, for channels in place of features. The own answers stand for the labels:
    whatever is lost shows, without the labels' noise, in fewer rows.

    It costs one run per channel of what follows the channel in the graph, on 512 rows, fewer where there are more than
    2,000 channels.
    """
    groups = inputs.program.analysis.groups
    channels = sum(group.width for group in groups)
    most = max(FEWEST_ROWS, min(MOST_ROWS, BUDGET // max(channels, 1)))
    request = {name: values[:most] for name, values in inputs.batches[0][0].items()}
    rows = len(next(iter(request.values())))
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(inputs.seed))
    recording = ValueRecorder(inputs.program)(request)
    own_answer = recording.answers
    values = {node: recording.values[node.name] for node in inputs.program.module.graph.nodes}
    found = resolve_sites(inputs.program, find_producer_sites(inputs.program))
    scores = {}
    with torch.no_grad():
        least = inputs.distance(own_answer, own_answer)
        for group in groups:
            rerun = _Rerun(inputs.program.module, values, found[group.name])
            names = [o.name for o in inputs.program.signature.outputs]
            answers = (dict(zip(names, rerun.without(c, order), strict=True)) for c in range(group.width))
            rises = [inputs.distance(answer, own_answer) - least for answer in answers]
            scores[group.name] = torch.stack(rises).double().clamp_min(0.0)
    return scores


class _Rerun(fx.Interpreter):
    """Runs again what a change of a group's channels reaches; of all else the `values` are known.

    No `ValueRecorder`: it changes values on the way, and begins in the middle of the graph.
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
        """Answer with one channel in another order."""
        self._channel, self._order = channel, order
        changed = {node: self._shuffled(node, self._known[node]) for node in self._first}
        answers: tuple[Tensor, ...] = self.run(initial_env={**self._known, **changed})
        return answers

    def run_node(self, n: fx.Node) -> Tensor:
        return self._shuffled(n, super().run_node(n))

    def _shuffled(self, node: fx.Node, value: Tensor) -> Tensor:
        place = self._places.get(node)
        return value if place is None else place.permute_channel(value, self._channel, self._order)
