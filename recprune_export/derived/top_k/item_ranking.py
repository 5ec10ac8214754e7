"""The ranking of a file with the best items: all items for each row, or the candidates of one request."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recprune_export.column_names import list_names
from recprune_export.data.encoding.encoder import Encoder
from recprune_export.data.sequences import HISTORY, SequenceEncoder
from recprune_export.derived.top_k.item_ids import ItemIds, make_column_ids, make_vocabulary_ids, read_item_ids
from recprune_export.errors import UsageError
from recprune_export.program.requests.jagged_inputs import is_packed
from recprune_export.program.signature import BATCH, Input, Output, Signature
from recprune_export.settings import ExportSettings


@dataclass(frozen=True)
class ItemRanking:
    """Rank the columns of `output`, [batch, items], by row.

    `ids` are those of the columns. The items in the input `history`, [batch, length], are left out.
    """

    k: int
    output: str
    ids: ItemIds
    history: str | None = None


@dataclass(frozen=True)
class CandidateRanking:
    """Rank the rows of a request with shared inputs by `output`, [batch] or [batch, 1].

    The input `item`, [batch], contains the id of each candidate, if only one input has one id per row.
    """

    k: int
    output: str
    item: str | None


def plan_ranking(
    signature: Signature, options: ExportSettings, encoder: Encoder | SequenceEncoder | None
) -> ItemRanking | CandidateRanking:
    """Choose the ranking of `--top-k` for a model with this `signature`, which includes shared inputs.

    Ids are those of `--item-ids`, or those of the vocabulary of a sequential recommender, or the numbers of the columns.

    Raises `UsageError` if nothing can be ranked, or the items of a history cannot be left out, and `DataError` for ids that do not
    fit the output.
    """
    assert options.top_k is not None
    wide = [o for o in _list_scores(signature) if len(o.shape) == 2 and o.shape[1] != 1]
    if wide:
        return _plan_items(_choose(wide), signature, options, encoder)
    single = [o for o in _list_scores(signature) if len(o.shape) == 1 or o.shape[1:] == (1,)]
    if not single or not any(i.shared for i in signature.inputs):
        raise UsageError(
            "--top-k has nothing to rank: the model does not return scores of all items, (batch, items), but scores one "
            "item per row. To rank the rows of a request, give the inputs that all candidates share with --shared-inputs."
        )
    return _plan_candidates(_choose(single), signature, options)


def _list_scores(signature: Signature) -> list[Output]:
    return [
        o
        for o in signature.outputs
        if o.dtype in ("float32", "float64")
        and o.shape[:1] == (BATCH,)
        and len(o.shape) <= 2
        and all(isinstance(size, int) for size in o.shape[1:])
    ]


def _choose(outputs: Sequence[Output]) -> Output:
    if len(outputs) > 1:
        raise UsageError(f"--top-k can rank by {list_names(o.name for o in outputs)}: select one with --outputs NAME.")
    return outputs[0]


def _plan_items(
    output: Output, signature: Signature, options: ExportSettings, encoder: Encoder | SequenceEncoder | None
) -> ItemRanking:
    columns = output.shape[1]
    assert isinstance(columns, int)
    if options.item_ids is not None:
        ids = read_item_ids(Path(options.item_ids), columns)
        if isinstance(encoder, SequenceEncoder):
            ids = ids.without([0])  # the padding of the history
    elif isinstance(encoder, SequenceEncoder):
        ids = make_vocabulary_ids(encoder.items.to_list(), encoder.items.first)
    else:
        ids = make_column_ids(columns)
    items = int(ids.is_item.sum())
    if options.top_k is None or options.top_k > items:
        raise UsageError(
            f"--top-k {options.top_k} is greater than the number of items that '{output.name}' scores, {items:,}."
        )
    history = None
    if options.exclude_seen:
        history = HISTORY if isinstance(encoder, SequenceEncoder) else _find_history(signature, columns)
        _check_history(next(i for i in signature.inputs if i.name == history))
    return ItemRanking(options.top_k, output.name, ids, history)


def _find_history(signature: Signature, columns: int) -> str:
    """Return the input with several ids per row, each of them a column of the scores."""
    several = [i for i in signature.inputs if len(i.shape) == 2 and i.dtype in ("int64", "int32") and i.ids]
    histories = [i.name for i in several if set(i.ids) == {(0, columns - 1)}]
    if len(histories) != 1:
        found = f"{list_names(histories)} all do" if histories else "none does"
        raise UsageError(
            "--exclude-seen requires one input that contains the items of a history as their columns in the "
            f"scores, ids 0 to {columns - 1}; "
            f"{found}: leave it out."
        )
    return histories[0]


def _check_history(history: Input) -> None:
    if is_packed(history):
        raise UsageError(
            f"--exclude-seen requires the items of each row as a matrix, but the input '{history.name}' contains the items of all "
            "rows with their lengths: give --padded N as well."
        )
    if history.shared:
        raise UsageError(
            f"--exclude-seen excludes items per row, but '{history.name}' is a shared input: leave out "
            "--exclude-seen, or do not share this input."
        )


def _plan_candidates(output: Output, signature: Signature, options: ExportSettings) -> CandidateRanking:
    assert options.top_k is not None
    reason = "with --shared-inputs, the candidates of a request are ranked, and the request contains their ids"
    if options.item_ids is not None:
        raise UsageError(f"--item-ids applies to scores of all items; {reason}: leave it out.")
    if options.exclude_seen:
        raise UsageError(
            f"--exclude-seen applies to scores of all items; {reason}: send only candidates that were not seen."
        )
    single = [
        i.name for i in signature.inputs if i.shape == (BATCH,) and i.dtype in ("int64", "int32") and i.jagged is None
    ]
    return CandidateRanking(options.top_k, output.name, single[0] if len(single) == 1 else None)
