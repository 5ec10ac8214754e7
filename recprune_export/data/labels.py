"""`LabelKind`: the kind of a label, determined from its values before the job starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Self

import numpy as np

from recprune_export.column_names import list_names

MAX_LISTED_WORDS = 8


class LabelKind(Enum):
    """How a label is predicted, trained and measured."""

    BINARY = "binary"  # 0 or 1: cross entropy of a logit
    CLASSES = "classes"  # 0 to k - 1, for a model with k logits: cross entropy of a softmax
    NUMBER = "number"  # stars, counts, prices: squared error
    NEXT_ITEM = "next item"  # the item id that follows a history: a ranking


@dataclass(frozen=True)
class LabelValues:
    """The values of a label over the rows where it is known.

    `low` and `high` are the smallest and the largest; `whole` if all are integers, `levels` the number of distinct ones; `variance` is 0
    for a constant. `words`, if any, are the strings of the classes 0, 1, ... in this order. `fixed` is the kind for which a model was
    trained, if known.
    """

    low: float = 0.0
    high: float = 1.0
    whole: bool = True
    levels: int = 2
    variance: float = 0.25
    words: tuple[str, ...] = ()
    fixed: LabelKind | None = None

    @classmethod
    def summarize(
        cls,
        values: np.ndarray,
        words: Sequence[str] = (),
        fixed: LabelKind | None = None,
        counts: np.ndarray | None = None,
    ) -> Self:
        """Summarize float [N], in which NaN is a missing label; without any value the result is that of a binary label.

        `counts`, [N], is the number of occurrences of each value, 1 by default.
        """
        is_known = ~np.isnan(values)
        known = values[is_known].astype(np.float64)
        if not len(known):
            return cls(words=tuple(words), fixed=fixed)
        whole = bool((known == np.round(known)).all())
        levels = len(np.unique(known))
        variance = float(known.var() if counts is None else weighted_variance(known, counts[is_known]))
        return cls(float(known.min()), float(known.max()), whole, levels, variance, tuple(words), fixed)

    @property
    def is_binary(self) -> bool:
        """Whether each value is 0 or 1."""
        return self.whole and self.low >= 0.0 and self.high <= 1.0

    def fits_classes(self, count: int) -> bool:
        """Return whether each value is one of the classes 0 to `count` - 1."""
        return self.whole and self.low >= 0.0 and self.high <= count - 1

    def kind(self, logits: int | None = None) -> LabelKind:
        """Return the kind for a model with `logits` numbers for each row; None if the model is unknown.

        Without a model, integers from 0 to k - 1 that all occur are classes.
        """
        if self.fixed is not None:
            return self.fixed
        if logits is not None and logits > 1 and self.fits_classes(logits):
            return LabelKind.BINARY if logits == 2 else LabelKind.CLASSES
        if self.is_binary:
            return LabelKind.BINARY
        if logits is None and self.fits_classes(self.levels):
            return LabelKind.CLASSES
        return LabelKind.NUMBER

    def describe(self) -> str:
        """Return the values in words.

        >>> LabelValues.summarize(np.array([5.0, 1.0, 3.0])).describe(), LabelValues().describe()
        ('whole numbers from 1 to 5', '0 and 1')
        """
        if self.words:
            return f"the texts {list_names(map(repr, self.words), MAX_LISTED_WORDS)}"
        if self.is_binary:
            return "0 and 1"
        if self.low == self.high:
            return f"{self.low:g} in every row"
        return f"{'whole ' if self.whole else ''}numbers from {self.low:g} to {self.high:g}"


def weighted_variance(values: np.ndarray, counts: np.ndarray) -> float:
    """Return the variance of values, [N], of which each occurs `counts` times."""
    mean = np.average(values, weights=counts)
    return float(np.average(np.square(values - mean), weights=counts))


def infer_label_kind(values: np.ndarray, logits: int | None = None) -> LabelKind:
    """Return the kind of a label, [N], for a model with `logits` numbers for each row; NaN is a missing label.

    >>> infer_label_kind(np.array([0, 1, np.nan])).value, infer_label_kind(np.array([1.0, 5.0])).value
    ('binary', 'number')
    >>> [infer_label_kind(np.array([0, 1, 2]), logits).value for logits in (None, 1, 3)]
    ['classes', 'number', 'classes']
    """
    return LabelValues.summarize(np.asarray(values, dtype=np.float64)).kind(logits)
