"""`ValueCodes`: a code for each value of a column: of a group, a side, or a label that is text."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class ValueCodes:
    """The `codes` of all distinct `values` of a column in a file, including null."""

    values: "pl.Series"
    codes: "pl.Series"

    @classmethod
    def of(cls, values: "pl.Series", codes: np.ndarray) -> Self:
        """Return the codes of values, [N] each; a value may occur several times with one code."""
        import polars as pl

        table = pl.DataFrame({"value": values, "code": codes}).unique("value", keep="first", maintain_order=True)
        return cls(table["value"].alias(values.name), table["code"])

    @property
    def name(self) -> str:
        """The name of the column."""
        return self.values.name

    def encode(self, rows: "pl.DataFrame") -> np.ndarray:
        """Return the code of each row, [N]."""
        import polars as pl

        if self.values.dtype == pl.Null:
            return np.broadcast_to(self.codes.to_numpy(), len(rows)).copy()
        coded = pl.col(self.name).replace_strict(self.values, self.codes, return_dtype=self.codes.dtype)
        return rows.select(coded).to_series().to_numpy(writable=True)
