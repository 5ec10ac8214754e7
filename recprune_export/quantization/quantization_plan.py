"""`QuantizationPlan`: the format of each linear layer and table, and the reason for it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

from recprune_export.codec import DictMixin, JsonForm, finite_or_none

Mode = Literal["none", "fp16", "int8", "int4"]

PLANNED: Literal["planned bits"] = "planned bits"  # instead of a mode: the bits of each weight were given

CONTRIB = "com.microsoft"  # domain of the operators that ONNX Runtime adds to the standard ones

FP32 = "fp32"
INT8_STATIC, INT8_DYNAMIC = "int8 static", "int8 dynamic"
INT8_ONE_SCALE = "int8 static, one scale"
FP16 = "fp16"
INT8_BY_ROW, INT8_BY_DIMENSION = "int8 by row", "int8 by dimension"
INT4_BY_ROW, INT4_IN_BLOCKS = "int4 by row", "int4 in blocks"
INT3_BY_ROW, INT2_BY_ROW = "int3 by row", "int2 by row"
INT8_STORED, INT4_STORED = "int8 stored", "int4 stored"  # forms of layers that are widened at load
INT8_BY_ROW_STATIC, INT8_BY_ROW_DYNAMIC = "int8 by row, static product", "int8 by row, dynamic product"
INT4_BY_ROW_STATIC, INT4_BY_ROW_DYNAMIC = "int4 by row, static product", "int4 by row, dynamic product"

# Forms of a table that is also multiplied: its stored format, and the product of its integers. In other forms the product
# is one of floats.
SCORED_TABLE_FORMS = {
    INT8_BY_ROW_STATIC: (INT8_BY_ROW, INT8_STATIC),
    INT8_BY_ROW_DYNAMIC: (INT8_BY_ROW, INT8_DYNAMIC),
    INT4_BY_ROW_STATIC: (INT4_BY_ROW, INT8_STATIC),
    INT4_BY_ROW_DYNAMIC: (INT4_BY_ROW, INT8_DYNAMIC),
}

# The next form of a weight that needs more bits to hold the metric.
WIDER_FORM = {
    INT4_BY_ROW_STATIC: INT4_BY_ROW,
    INT4_BY_ROW_DYNAMIC: INT4_BY_ROW,
    INT2_BY_ROW: INT3_BY_ROW,
    INT3_BY_ROW: INT4_BY_ROW,
    INT4_BY_ROW: INT8_BY_ROW,
    INT4_IN_BLOCKS: INT8_BY_ROW,
    INT8_BY_DIMENSION: INT8_BY_ROW,
    INT8_BY_ROW_STATIC: INT8_BY_ROW,
    INT8_BY_ROW_DYNAMIC: INT8_BY_ROW,
    INT8_BY_ROW: FP16,
    FP16: FP32,
    INT8_ONE_SCALE: INT8_STATIC,
    INT8_STATIC: FP32,
    INT8_DYNAMIC: FP32,
    INT4_STORED: INT8_STORED,
    INT8_STORED: FP32,
}


@dataclass(frozen=True)
class WeightChoice(DictMixin):
    """One linear layer [inputs, outputs] or table [rows, dimensions], by the name of its weight, in one form.

    `speedups`: measured speed-ups over fp32, alone in a graph, by batch size; empty if it was not measured. `error`: the error of the
    outputs if only this weight is quantized, relative to their standard deviation; None if it was not measured. `bytes`: the size of the
    weight in fp32 and in this form, scales included.
    """

    ENCODED = ("name", "shape", "form", "reason", "speedups", "error", "bytes")

    name: str
    shape: tuple[int, int]
    form: str
    reason: str
    speedups: Mapping[int, float]
    bytes: tuple[int, int]
    error: Annotated[float | None, JsonForm(finite_or_none)] = None

    @property
    def is_quantized(self) -> bool:
        """Whether the form is not fp32."""
        return self.form != FP32


@dataclass(frozen=True)
class QuantizationPlan(DictMixin):
    """All choices of one ONNX file, including weights that cannot be quantized, with the reason.

    `mode`: the mode in which the forms were chosen, or `PLANNED` if the bits of each weight were given.
    """

    mode: Mode | Literal["planned bits"]
    layers: tuple[WeightChoice, ...]
    tables: tuple[WeightChoice, ...]

    @property
    def choices(self) -> tuple[WeightChoice, ...]:
        """The choices of layers, then those of tables."""
        return (*self.layers, *self.tables)

    @property
    def is_empty(self) -> bool:
        """Whether all weights stay in fp32."""
        return not any(choice.is_quantized for choice in self.choices)

    def forms(self) -> dict[str, str]:
        """Return the form of each quantized weight, by its name."""
        return {choice.name: choice.form for choice in self.choices if choice.is_quantized}

    def with_choice(self, new: WeightChoice) -> Self:
        """Return the plan with `new` instead of the choice for the same weight."""

        def replace_choice(choices: tuple[WeightChoice, ...]) -> tuple[WeightChoice, ...]:
            return tuple(new if choice.name == new.name else choice for choice in choices)

        return replace(self, layers=replace_choice(self.layers), tables=replace_choice(self.tables))
