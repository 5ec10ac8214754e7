"""`Schema`: the roles of the columns of a file."""

from dataclasses import dataclass, field

from recprune_export.codec import OMIT_DEFAULT, DictMixin
from recprune_export.data.labels import LabelKind


@dataclass(frozen=True)
class MultiValued:
    """A field with several ids: a list column (`separator` None) or a string split at `separator`.

    Only the first `max_length` values of a row are used.
    """

    name: str
    separator: str | None
    max_length: int


@dataclass(frozen=True)
class VectorColumn:
    """A column of vectors of `size` numbers, such as the embedding of a text."""

    name: str
    size: int


@dataclass(frozen=True)
class SequenceColumns:
    """The columns of a log of user actions; the last `max_length` items of a user are the history."""

    user: str
    item: str
    order: str
    max_length: int = 50


@dataclass(frozen=True)
class Split:
    """How rows are split: by a column of split names, or into the fractions `valid` and `test`, at random by a seed.

    With `time`, a column, these fractions are the last ones in time; with `user`, a column, all rows of a user are in one split.
    """

    column: str | None = None
    seed: int = 0
    valid: float = 0.1
    test: float = 0.1
    time: str | None = field(default=None, metadata=OMIT_DEFAULT)
    user: str | None = field(default=None, metadata=OMIT_DEFAULT)

    @property
    def source(self) -> str | None:
        """The column by which rows are split, if any."""
        return self.column or self.time or self.user


@dataclass(frozen=True)
class Schema(DictMixin):
    """The columns that are used, and their roles. A log of sequences has no labels and no other fields.

    `value_labels` are the labels that are numbers, not 0 and 1. `missing_label` is a value that stands for a missing label,
    `weight` the column with the weights of rows, `missing` holds words that stand for a missing value in addition to the usual ones.

    >>> schema = Schema(labels=("click",), categorical=("user", "item"), numeric=("age",))
    >>> Schema.from_dict(schema.to_dict()) == schema
    True
    """

    labels: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    multi_valued: tuple[MultiValued, ...] = ()
    sequence: SequenceColumns | None = None
    split: Split = Split()
    value_labels: tuple[str, ...] = field(default=(), metadata=OMIT_DEFAULT)
    missing_label: str | None = field(default=None, metadata=OMIT_DEFAULT)
    weight: str | None = field(default=None, metadata=OMIT_DEFAULT)
    vectors: tuple[VectorColumn, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def label_kinds(self) -> dict[str, LabelKind]:
        """The kind of each label."""
        return {n: LabelKind.NUMBER if n in self.value_labels else LabelKind.BINARY for n in self.labels}

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns that become inputs."""
        multi_valued = (several.name for several in self.multi_valued)
        return (*self.categorical, *multi_valued, *self.numeric, *(vector.name for vector in self.vectors))

    @property
    def dense_columns(self) -> tuple[str, ...]:
        """The columns of the input `numeric`: numeric fields, then the numbers of vectors as `name_0`, `name_1`, ... .

        >>> Schema(numeric=("age",), vectors=(VectorColumn("picture", 2),)).dense_columns
        ('age', 'picture_0', 'picture_1')
        """
        vectors = (f"{vector.name}_{i}" for vector in self.vectors for i in range(vector.size))
        return (*self.numeric, *vectors)

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns whose values are looked up by their text, or may be strings."""
        sequence = () if self.sequence is None else (self.sequence.item,)
        return (*self.categorical, *(several.name for several in self.multi_valued), *self.numeric, *sequence)
