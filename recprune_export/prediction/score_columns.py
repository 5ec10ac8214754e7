"""The columns of scores: each output with its meaning, unchanged or as probabilities."""

from dataclasses import dataclass, replace

import numpy as np

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.errors import UsageError
from recprune_export.output_meaning import OutputMeaning, read_meanings
from recprune_export.program.signature import BATCH, Output, Signature


@dataclass(frozen=True)
class ScoreColumn:
    """A column named `column`, of `output` with the meaning `source`; `meaning` is that of the values of the column."""

    column: str
    output: Output
    source: OutputMeaning
    meaning: OutputMeaning

    @property
    def inner(self) -> tuple[int, ...]:
        """The shape of the values of a row; () for one value."""
        return () if self.shape == (1,) else self.shape

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the output without the batch."""
        return tuple(n for n in self.output.shape[1:] if isinstance(n, int))

    @property
    def is_text(self) -> bool:
        """Whether the values are strings, such as the ids of items."""
        return np.dtype(self.output.dtype).kind == "U"

    def check_rows(self) -> None:
        """Raise `UsageError` if the output does not have one row for each row of a request."""
        shape = self.output.shape
        if not shape or shape[0] != BATCH or not all(isinstance(n, int) for n in shape[1:]):
            raise UsageError(
                f"The output '{self.output.name}' does not have one row for each row of a request, so it cannot be a column."
            )

    def convert(self, values: np.ndarray) -> np.ndarray:
        """Return the values of the column from those of the output."""
        return values if self.meaning == self.source else self.source.to_probability(values)


def make_score_columns(manifest: Manifest, signature: Signature, probability: bool) -> list[ScoreColumn]:
    """Return a column for each output; each keeps the name of its output if the names with kinds are not distinct.

    With `probability`, an output from which no probability follows stays as it is.

    Raises `UsageError` if probabilities are requested and follow from no output.
    """
    meanings = read_meanings(manifest.scores, [output.name for output in signature.outputs])
    if probability and not any(meaning.probability for meaning in meanings.values()):
        name, meaning = next(iter(meanings.items()))
        raise UsageError(
            f"--probability applies to logits, but '{name}' is {meaning.meaning}: leave out --probability."
        )
    columns = []
    for output in signature.outputs:
        source = meanings[output.name]
        shown = (source.probability if probability else None) or source
        columns.append(ScoreColumn(shown.column(output.name), output, source, shown))
    if len({column.column for column in columns}) < len(columns):
        return [replace(column, column=column.output.name) for column in columns]
    return columns
