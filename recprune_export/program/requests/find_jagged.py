"""Search a request for the tensors with lengths or offsets of rows, and for the tensors that they divide.

Classes of TorchRec define them. In other requests they are detected: if the numbers of a tensor match the size of another one,
the model is run on rows in another order and of other lengths, and its outputs for each row must not change.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from recprune_export.data.list_columns import absent_value
from recprune_export.error_text import describe_place, summarize_error
from recprune_export.errors import CaptureError
from recprune_export.program.capture.source_lines import find_user_line
from recprune_export.program.requests.example import compute_outputs, find_batch_size, outputs_match
from recprune_export.program.requests.jagged_layout import JaggedLayout, JaggedModule, Partition, Rows, count_elements
from recprune_export.program.requests.request_tree import RequestTree
from recprune_export.program.signature import LENGTHS, OFFSETS, OFFSETS_AND_END

MOST_PAIRS = 20_000  # of tensors that are compared
MOST_TRIALS, MOST_TOGETHER, MOST_COMBINATIONS, MOST_KEYS = 32, 3, 500, 64
TRIED_ROWS = 7


@dataclass(frozen=True)
class JaggedExample:
    """A layout, and rows that fit it; `more` is true if rows may have more elements than in the example."""

    layout: JaggedLayout
    rows: Rows
    more: bool

    def draw(self, count: int, seed: int) -> Rows:
        """Return `count` rows of the example, in order, with elements repeated or left out at random."""
        generator = torch.Generator().manual_seed(seed)
        rows = self.layout.select(self.rows, torch.arange(count) % self.layout.batch)
        inputs = {i.name: i.jagged for i in self.layout.inputs() if i.jagged is not None}
        kept: dict[str, Tensor] = {}
        for name in (name for name, jagged in inputs.items() if jagged.present == name):
            copies = 2 if self.more else 1
            kept[name] = torch.rand(count, copies * rows[name].shape[1], generator=generator) < 0.6
            kept[name][:, 0] = True
        for name, jagged in inputs.items():
            values = torch.cat([rows[name]] * 2, 1) if self.more else rows[name].clone()
            values[~kept[jagged.present]] = absent_value(values.numpy().dtype)
            rows[name] = values
        return rows

    def unambiguous(self, widths: set[int]) -> Rows:
        """Return rows whose number, and whose numbers of elements, differ from each other and from `widths`.

        Raises `CaptureError` if the example has too few elements for that.
        """
        for seed in range(400):
            rows = self.draw(TRIED_ROWS + seed // 8, seed)
            names = [i.name for i in self.layout.inputs() if i.jagged is not None and i.jagged.present == i.name]
            sizes = [TRIED_ROWS + seed // 8, *(int(count_elements(rows[name]).sum()) for name in names)]
            if len(set(sizes)) == len(sizes) and not widths & set(sizes) and min(sizes) > 1:
                return rows
        raise CaptureError(
            "The rows of the example request have too few elements: give an example with more and longer rows."
        )


def find_jagged(module: nn.Module, tree: RequestTree) -> JaggedExample | None:
    """Return the layout of a request of which rows have different numbers of elements; None for other requests.

    Raises `CaptureError` if a class of TorchRec contains unsupported values, or the model does not process its rows
    one by one.
    """
    known = find_torchrec(tree)
    if known:
        layout = _make_layout(tree, known)
        if layout is None:
            raise CaptureError("The KeyedJaggedTensors of the example request have different numbers of rows.")
        failure: Exception = CaptureError("its outputs for a row depend on the other rows of the request")
        for tried, more in itertools.product((layout, *_with_single_keys(layout)), (True, False)):
            try:
                if (found := _try(module, tried, more)) is not None:
                    return found
            except Exception as error:  # any error of the user's code
                failure = error if tried is layout else failure
        where = describe_place(find_user_line(failure))
        reason = str(failure).rstrip(".") if isinstance(failure, CaptureError) else summarize_error(failure)
        raise CaptureError(
            f"The outputs of the model depend on the order of the rows of the example request{where}: {reason}. Give an example in which "
            "each row is valid by itself."
        ) from failure
    if not _list_ends(tree) or _answers_rows(module, tree):
        return None
    layouts = [layout for parts in _list_hypotheses(tree) if (layout := _make_layout(tree, parts)) is not None]
    single = [other for layout in layouts for other in _with_single_keys(layout)]
    for more, layout in [*itertools.product((True, False), layouts), *itertools.product((True, False), single)]:
        try:
            if (found := _try(module, layout, more)) is not None:
                return found
        except Exception:  # any error of the user's code: the interpretation is wrong
            continue
    return None


def _answers_rows(module: nn.Module, tree: RequestTree) -> bool:
    """Return whether the model answers rows in another order as before, where each tensor has one row for each."""
    tensors = {leaf: tree.leaves[leaf] for leaf in tree.tensors}
    batch = find_batch_size(list(tensors.values()))
    order = torch.tensor([*range(batch - 1, -1, -1), 0])
    turned = {leaf: x[order] if x.ndim and len(x) == batch else x for leaf, x in tensors.items()}
    try:
        answers = compute_outputs(module, *tree.arguments(tensors))
        others = compute_outputs(module, *tree.arguments(turned))
    except Exception:  # any error of the user's code
        return False
    pairs = [(a[order], b) for a, b in zip(answers, others, strict=True) if a.ndim and len(a) == batch]
    return bool(pairs) and outputs_match([b for _, b in pairs], [a for a, _ in pairs])


def _make_layout(tree: RequestTree, partitions: Sequence[Partition]) -> JaggedLayout | None:
    batches = {part.batch(tree) for part in partitions}
    leaves = [leaf for part in partitions for leaf in (part.rows, *part.values, *part.weights)]
    if len(batches) != 1 or not min(batches) or len(set(leaves)) != len(leaves):
        return None
    return JaggedLayout(tree, tuple(partitions), batches.pop(), {})


def _with_single_keys(layout: JaggedLayout) -> list[JaggedLayout]:
    """Return the layout in which keys with one element in each row of the example have one in each row of every request; None if there
    are no such keys.

    A model may treat such a key, like the item to score, as a tensor with the batch on axis 0.
    """
    counts = layout.example_counts()
    parts = tuple(
        replace(part, single=frozenset(n for n, count in enumerate(counts[part.rows]) if (count == 1).all()))
        for part in layout.partitions
    )
    return (
        [replace(layout, partitions=parts)] if any(part.single for part in parts) and parts != layout.partitions else []
    )


def _try(module: nn.Module, layout: JaggedLayout, more: bool) -> JaggedExample | None:
    """Return the example if the answer for each row does not depend on other rows; otherwise None.

    Raises the errors of the model.
    """
    rows = layout.example_rows()
    leaders = [i.name for i in layout.inputs() if i.jagged is not None and i.jagged.present == i.name]
    observed = {name: count_elements(rows[name]) for name in leaders}
    if leaders and not sum(int(count.sum()) for count in observed.values()):
        return None
    counts = {}
    for name, count in observed.items():
        low, high = int(count.min()), int(count.max())
        counts[name] = (low, max(2 * high if more and low == high else high, 1))
    example = JaggedExample(layout.with_counts(counts), rows, more)
    called = JaggedModule(module, example.layout)
    varied: set[str] = set()
    for seed in range(2):
        drawn = example.draw(TRIED_ROWS, seed)
        varied |= {name for name in leaders if int(count_elements(drawn[name]).sum()) != TRIED_ROWS}
        order = torch.randperm(TRIED_ROWS, generator=torch.Generator().manual_seed(seed))[: TRIED_ROWS - 1]
        answers = compute_outputs(called, example.layout.tensors(drawn), {})
        others = compute_outputs(called, example.layout.tensors(example.layout.select(drawn, order)), {})
        pairs = [
            (one[order], other)
            for one, other in zip(answers, others, strict=True)
            if one.ndim and len(one) == TRIED_ROWS and len(other) == TRIED_ROWS - 1
        ]
        if not pairs or not outputs_match([other for _, other in pairs], [one for one, _ in pairs]):
            return None
    if varied != set(leaders):
        return None  # with one element in each row, the tensors could also have one element for each row
    empty = {name for name in leaders if _answers_empty(called, example, name)}
    counts = {name: (0 if name in empty else max(low, 1), high) for name, (low, high) in counts.items()}
    return replace(example, layout=layout.with_counts(counts))


def _answers_empty(called: JaggedModule, example: JaggedExample, name: str) -> bool:
    """Return whether the model returns finite numbers for a row without elements."""
    rows = example.draw(TRIED_ROWS, 0)
    for spec in example.layout.inputs():
        if spec.jagged is not None and spec.jagged.present == name:
            rows[spec.name][0] = absent_value(rows[spec.name].numpy().dtype)
    try:
        answers = compute_outputs(called, example.layout.tensors(rows), {})
    except Exception:  # any error of the user's code
        return False
    return all(bool(answer.isfinite().all()) for answer in answers)


def find_torchrec(tree: RequestTree) -> list[Partition]:
    """Return the partitions of the KeyedJaggedTensors and JaggedTensors of a request.

    Raises `CaptureError` for one that contains unsupported values.
    """
    partitions = []
    first = 0

    def visit(spec: torch.utils._pytree.TreeSpec) -> None:
        nonlocal first
        if spec.is_leaf():
            first += 1
            return
        name = getattr(spec.type, "__name__", "")
        if name in ("KeyedJaggedTensor", "JaggedTensor") and spec.type.__module__.startswith("torchrec."):
            keys = tuple(spec.context) if name == "KeyedJaggedTensor" else ("",)
            partitions.append(_read_torchrec(tree, range(first, first + spec.num_leaves), keys))
            first += spec.num_leaves
            return
        for child in spec.children():
            visit(child)

    visit(tree.spec)
    return partitions


def _read_torchrec(tree: RequestTree, leaves: range, keys: tuple[str, ...]) -> Partition:
    values, weights, lengths, offsets, *others = leaves
    held = {number: isinstance(tree.leaves[number], Tensor) for number in leaves}
    if any(held[number] or tree.leaves[number] for number in others):
        raise CaptureError(
            f"The KeyedJaggedTensor '{'_'.join(tree.paths[values][:-1])}' has a different number of rows for each key, or "
            "inverse indices: give one in which every key has one row per row of the batch."
        )
    rows, form = (lengths, LENGTHS) if held[lengths] else (offsets, OFFSETS_AND_END)
    copies = {offsets: OFFSETS_AND_END} if held[lengths] and held[offsets] else {}
    return Partition(rows, form, (values,), keys, weights=(weights,) if held[weights] else (), copies=copies)


def _list_hypotheses(tree: RequestTree) -> Iterator[tuple[Partition, ...]]:
    """Yield a few possible interpretations of the tensors, first those that explain all tensors."""
    candidates = _list_candidates(tree)
    combined = [
        (size, tuple(part for group in groups for part in group))
        for size in range(1, MOST_TOGETHER + 1)
        for groups in itertools.islice(itertools.combinations(candidates, size), MOST_COMBINATIONS)
    ]
    fitting = [(size, parts) for size, parts in combined if _make_layout(tree, parts) is not None]
    fitting.sort(
        key=lambda found: (
            _count_unexplained(tree, found[1]),
            found[0],
            _count_apart(tree, found[1]),
            sum(len(part.weights) for part in found[1]),
        )
    )
    yield from (parts for _, parts in fitting[:MOST_TRIALS])


def _count_unexplained(tree: RequestTree, parts: Sequence[Partition]) -> int:
    layout = _make_layout(tree, parts)
    assert layout is not None
    others = [leaf for leaf in tree.tensors if leaf not in layout.divided and tree.leaves[leaf].ndim > 0]
    divided = [leaf for part in parts for leaf in (*part.values, *part.weights)]
    return sum(not layout.has_batch(leaf) for leaf in others) + sum(
        _looks_like_offsets(tree.leaves[leaf]) for leaf in (*others, *divided)
    )


def _looks_like_offsets(values: Tensor) -> bool:
    if values.is_floating_point() or values.ndim != 1 or len(values) < 2:
        return False
    return int(values[0]) == 0 and int(values[-1]) > 0 and not bool((values.diff() < 0).any())


def _count_apart(tree: RequestTree, parts: Sequence[Partition]) -> int:
    """Return how many of the tensors lie in another container than the tensor that divides them."""
    return sum(tree.paths[leaf][:-1] != tree.paths[part.rows][:-1] for part in parts for leaf in part.values)


def _list_candidates(tree: RequestTree) -> list[tuple[Partition, ...]]:
    leaves = [leaf for leaf in tree.tensors if tree.leaves[leaf].ndim and tree.leaves[leaf].numel()]
    ends = _list_ends(tree)
    if len(ends) * len(leaves) > MOST_PAIRS:
        return []
    candidates: list[tuple[Partition, ...]] = []
    lists = _list_siblings(tree, leaves)
    for rows in (leaf for leaf in ends if tree.leaves[leaf].ndim == 1):
        for values in (leaf for leaf in leaves if leaf != rows):
            sizes = {len(tree.leaves[leaf]) for leaf in leaves if leaf not in (rows, values)}
            for keys in _list_keys(tree.leaves[rows], sizes):
                candidates += _fit(tree, leaves, rows, (values,), keys, stacked=False)
    for rows in (leaf for leaf in ends if tree.leaves[leaf].ndim == 2):
        keys = tuple(map(str, range(len(tree.leaves[rows]))))
        for siblings in lists:
            if len(siblings) == len(keys) and rows not in siblings:
                candidates += _fit(tree, leaves, rows, tuple(siblings), keys, stacked=True)
        for values in (leaf for leaf in leaves if leaf != rows):
            candidates += _fit(tree, leaves, rows, (values,), keys, stacked=True)
            candidates += _fit_one_hot(tree, rows, values, keys)
        keys = tuple(map(str, range(tree.leaves[rows].shape[1])))
        for siblings in (found for found in lists if len(found) == len(keys) and rows not in found):
            candidates += _fit(tree, leaves, rows, tuple(siblings), keys, stacked=True, keys_last=True)
        for leaf in (leaf for leaf in leaves if leaf != rows):
            candidates += _fit(tree, leaves, rows, (leaf,), keys, stacked=True, keys_last=True)
    for one, other in itertools.permutations(lists, 2):
        if len(one) == len(other) and all(leaf in ends and tree.leaves[leaf].ndim == 1 for leaf in one):
            fits = [_fit(tree, leaves, r, (v,), ("",), stacked=False) for r, v in zip(one, other, strict=True)]
            for form in (LENGTHS, OFFSETS_AND_END, OFFSETS):
                alike = [[group[0] for group in fit if group[0].form == form] for fit in fits]
                if all(alike):
                    candidates += _pair_weights(tree, leaves, [replace(parts[0], weights=()) for parts in alike])
    return [*candidates, *_match_all(candidates)]


def _pair_weights(tree: RequestTree, leaves: Sequence[int], parts: Sequence[Partition]) -> list[tuple[Partition, ...]]:
    """Return the partitions of two lists, without weights, and with those of a third list of the same sizes."""
    used = {leaf for part in parts for leaf in (part.rows, *part.values)}
    sizes = [len(tree.leaves[leaf]) for part in parts for leaf in part.values]
    others = [
        siblings
        for siblings in _list_siblings(tree, [leaf for leaf in leaves if leaf not in used])
        if [len(tree.leaves[leaf]) for leaf in siblings] == sizes
    ]
    weighted = [
        tuple(replace(part, weights=(leaf,)) for part, leaf in zip(parts, siblings, strict=True)) for siblings in others
    ]
    return [tuple(parts), *weighted]


def _match_all(candidates: Sequence[tuple[Partition, ...]]) -> list[tuple[Partition, ...]]:
    """Return for each form one interpretation in which every tensor of row ends divides a separate tensor: the next one that it fits.

    The tensors with the fewest choices choose first.
    """
    matched: list[tuple[Partition, ...]] = []
    for form in (LENGTHS, OFFSETS_AND_END, OFFSETS):
        choices: dict[int, list[Partition]] = {}
        for parts in candidates:
            if len(parts) == 1 and parts[0].form == form and len(parts[0].keys) == 1 and not parts[0].weights:
                choices.setdefault(parts[0].rows, []).append(parts[0])
        taken: list[Partition] = []
        for found in sorted(choices.values(), key=len):
            used = {leaf for part in taken for leaf in (part.rows, *part.values)}
            free = [part for part in found if used.isdisjoint((part.rows, *part.values))]
            if free:
                taken.append(min(free, key=lambda part: abs(part.rows - part.values[0])))
        if len(taken) > 1:
            matched.append(tuple(taken))
    return matched


def _list_ends(tree: RequestTree) -> list[int]:
    """Return the tensors that may be lengths or offsets: nonnegative integers, of which the largest is at most a size."""
    largest = max((size for leaf in tree.tensors for size in tree.leaves[leaf].shape[:2]), default=0)
    ends = []
    for leaf in tree.tensors:
        values = tree.leaves[leaf]
        is_whole = not values.is_floating_point() and not values.is_complex() and values.dtype != torch.bool
        if (
            is_whole
            and values.ndim in (1, 2)
            and values.numel()
            and 0 <= int(values.min()) <= int(values.max()) <= largest
        ):
            ends.append(leaf)
    return ends


def _list_keys(rows: Tensor, sizes: set[int]) -> Iterator[tuple[str, ...]]:
    """Yield one key, and several where the ends of the rows of all keys may follow each other: `sizes` of other tensors say how many.

    Without other tensors each number of keys is possible that divides them.
    """
    yield ("",)
    for length in (len(rows), len(rows) - 1):
        batches = sizes or set(range(2, length))
        for batch in sorted(batches, reverse=True):
            if 1 < batch < length and length % batch == 0 and length // batch <= MOST_KEYS:
                yield tuple(map(str, range(length // batch)))


def _list_siblings(tree: RequestTree, leaves: Sequence[int]) -> list[list[int]]:
    """Return the leaves of each list."""
    lists: dict[tuple[str, ...], list[int]] = {}
    for leaf in leaves:
        if tree.paths[leaf][-1].isdecimal():
            lists.setdefault(tree.paths[leaf][:-1], []).append(leaf)
    return list(lists.values())


def _fit(
    tree: RequestTree,
    leaves: Sequence[int],
    rows: int,
    values: tuple[int, ...],
    keys: tuple[str, ...],
    *,
    stacked: bool,
    keys_last: bool = False,
) -> list[tuple[Partition, ...]]:
    """Return the forms in which the numbers of `rows` fit the sizes of `values`."""
    sizes = [len(tree.leaves[leaf]) for leaf in values]
    parts = tree.leaves[rows] if stacked else tree.leaves[rows].unsqueeze(0)
    parts = parts.T if keys_last else parts
    totals = sizes if len(sizes) == len(parts) else None
    fitting: list[tuple[Partition, ...]] = []
    for form in (LENGTHS, OFFSETS_AND_END, OFFSETS):
        if totals is None:
            fits = form == LENGTHS and bool((parts >= 0).all()) and int(parts.sum()) == sizes[0]
        else:
            fits = all(_fits(part, size, form) for part, size in zip(parts, totals, strict=True))
        if fits:
            part = Partition(rows, form, values, keys, stacked, keys_last=keys_last)
            fitting += [(replace(part, weights=weights),) for weights in _list_weights(tree, leaves, part)]
    return fitting


def _fit_one_hot(tree: RequestTree, rows: int, values: int, keys: tuple[str, ...]) -> list[tuple[Partition, ...]]:
    """Return the form in which `rows`, keys before the batch, say that each row of `values`, of the same axes, has one element."""
    ends, elements = tree.leaves[rows], tree.leaves[values]
    if elements.ndim < 2 or len(elements) != len(keys):
        return []
    batch = elements.shape[1]
    forms = {LENGTHS: torch.ones(batch), OFFSETS: torch.arange(batch), OFFSETS_AND_END: torch.arange(batch + 1)}
    single = frozenset(range(len(keys)))
    return [
        (Partition(rows, form, (values,), keys, stacked=True, single=single, stacked_values=True),)
        for form, expected in forms.items()
        if ends.shape[1] == len(expected) and bool((ends == expected).all())
    ]


def _fits(ends: Tensor, size: int, form: str) -> bool:
    if form == LENGTHS:
        return bool((ends >= 0).all()) and int(ends.sum()) == size
    if int(ends[0]) != 0 or bool((ends.diff() < 0).any()):
        return False
    return int(ends[-1]) == size and len(ends) > 1 if form == OFFSETS_AND_END else int(ends[-1]) <= size


def _list_weights(tree: RequestTree, leaves: Sequence[int], part: Partition) -> list[tuple[int, ...]]:
    """Return which leaves may hold a number for each element: none, or one for each leaf of `part.values`."""
    batch = part.batch(tree)
    sizes = [len(tree.leaves[leaf]) for leaf in part.values]
    others = [leaf for leaf in leaves if leaf != part.rows and leaf not in part.values]
    if len(sizes) == 1:
        beside = tree.paths[part.values[0]][:-1]
        alike = tuple(
            leaf
            for leaf in others
            if len(tree.leaves[leaf]) == sizes[0]
            and (tree.leaves[leaf].is_floating_point() or (beside and tree.paths[leaf][:-1] == beside))
        )
        certain = tuple(leaf for leaf in alike if sizes[0] != batch)
        return list(dict.fromkeys((certain, alike, ())))
    for siblings in _list_siblings(tree, others):
        if [len(tree.leaves[leaf]) for leaf in siblings] == sizes and any(size != batch for size in sizes):
            return [tuple(siblings), ()]
    return [()]
