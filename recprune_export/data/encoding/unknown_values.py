"""Values that are not in a vocabulary: their number, examples, and the verdict on a file with nearly only such values."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from recprune_export.data.encoding.encoder import Encoder, Request
from recprune_export.data.encoding.vocabulary import Vocabulary
from recprune_export.errors import DataError
from recprune_export.terminal_text import escape_line

if TYPE_CHECKING:
    import polars as pl

REFUSED_SHARE = 0.99  # ids in another spelling, or of another shop: real traffic never has so many new ids
NOTED_SHARE = 0.2
_MIN_VALUES = 20  # fewer values may all be new by chance
_EXAMPLES = 3


@dataclass(frozen=True)
class UnknownValues:
    """Counts of one field: values that are not in the vocabulary, with `examples`, and all values that are not missing."""

    field: str
    unknown: int = 0
    values: int = 0
    examples: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """The fraction of values that are not in the vocabulary, 0 if too few rows have a value."""
        return self.unknown / self.values if self.values >= _MIN_VALUES else 0.0

    def add(self, other: Self) -> Self:
        """Return the counts of both."""
        examples = tuple(dict.fromkeys((*self.examples, *other.examples)))[:_EXAMPLES]
        return type(self)(self.field, self.unknown + other.unknown, self.values + other.values, examples)


def count_unknown(encoder: Encoder, rows: "pl.DataFrame", request: Request) -> dict[str, UnknownValues]:
    """Return the counts of each field with a vocabulary, over all of `rows`, from which `request` was made.

    The strings of a categorical field are read again only if they have no id; a list may have more values than ids.
    """
    counts = {}
    for name, vocabulary in encoder.vocabularies.items():
        has_id = request[name] != encoder.unknown_ids[name]
        lacking = rows if has_id.ndim > 1 else rows.filter(~has_id)
        count = count_unknown_texts(name, encoder.texts(lacking, name), vocabulary)
        counts[name] = replace(count, values=count.values + len(rows) - len(lacking))
    return counts


@dataclass(frozen=True)
class UnknownTally:
    """The number of unknown ids of a field, and the number of all its ids."""

    unknown: int = 0
    ids: int = 0

    def __add__(self, other: "UnknownTally") -> "UnknownTally":
        return UnknownTally(self.unknown + other.unknown, self.ids + other.ids)


def tally_unknown(encoder: Encoder, requests: Sequence[Request]) -> dict[str, UnknownTally]:
    """Return the number of unknown ids of some requests, by field; padding does not count."""
    several = {field.name for field in encoder.schema.multi_valued}
    tallies = {}
    for name in encoder.vocabularies:
        unknown = sum(int(np.count_nonzero(request[name] == encoder.unknown_ids[name])) for request in requests)
        ids = sum(
            int(np.count_nonzero(request[name])) if name in several else len(request[name]) for request in requests
        )
        tallies[name] = UnknownTally(unknown, ids)
    return tallies


def count_unknown_if_many(
    encoder: Encoder, frame: "pl.LazyFrame", tallies: Mapping[str, UnknownTally]
) -> dict[str, UnknownValues]:
    """Return the counts of the fields with possibly at least `NOTED_SHARE` unknown values, by the tallies of the ids of `frame`."""
    return {
        name: count_unknown_in_query(encoder.select_texts(frame, name), name, encoder.vocabularies[name])
        for name, tally in tallies.items()
        if tally.ids and tally.unknown >= NOTED_SHARE * tally.ids
    }


def judge_unknown(
    counts: Iterable[UnknownValues], vocabularies: Mapping[str, Vocabulary], source: str, allow: bool
) -> tuple[str, ...]:
    """Return a note for each field with a fraction of at least `NOTED_SHARE` unknown values; `source` names the rows.

    Raises `DataError` if at least `REFUSED_SHARE` of a field is unknown, unless `allow`.
    """
    notes = []
    for count in counts:
        if count.share < NOTED_SHARE:
            continue
        known = vocabularies[count.field].values.head(_EXAMPLES).to_list()
        text = (
            f"{count.unknown:,} of {count.values:,} values of '{count.field}' in {source} ({count.share:.1%}) are unknown to the "
            f"model, such as {_quote(count.examples)}; known values are, for example, {_quote(known)}"
        )
        if count.share >= REFUSED_SHARE and not allow:
            raise DataError(
                f"{text}. Spell them as in training, or give --allow-unknown to map them all to the id for unknown values."
            )
        notes.append(f"{text}. They are mapped to the id for unknown values.")
    return tuple(notes)


def count_unknown_texts(field: str, texts: "pl.Series", vocabulary: Vocabulary) -> UnknownValues:
    """Return the counts of canonical texts, none of them missing."""
    unknown = texts.filter(~vocabulary.knows(texts))
    examples = tuple(unknown.head(1000).unique(maintain_order=True).head(_EXAMPLES).to_list())
    return UnknownValues(field, len(unknown), len(texts), examples)


def count_unknown_in_query(texts: "pl.LazyFrame", field: str, vocabulary: Vocabulary) -> UnknownValues:
    """Return the counts of a query for strings, which are never in memory together."""
    import polars as pl

    lacks = ~pl.col(field).is_in(vocabulary.values.implode())
    counts = texts.select(pl.len().alias("values"), lacks.sum().alias("unknown")).collect(engine="streaming")
    first = texts.filter(lacks).head(1000).collect(engine="streaming").to_series()
    examples = tuple(first.unique(maintain_order=True).head(_EXAMPLES).to_list())
    return UnknownValues(field, int(counts["unknown"][0] or 0), int(counts["values"][0]), examples)


def _quote(values: Sequence[str]) -> str:
    return ", ".join(f"'{escape_line(value)}'" for value in values) or "none"
