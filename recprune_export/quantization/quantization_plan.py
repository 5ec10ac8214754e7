"""`QuantizationPlan`: for each linear layer and each table, how it is stored and multiplied, and why."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

from recprune_export.codec import JsonForm, ToDictMixin, finite_or_none

Mode = Literal["none", "fp16", "int8", "int4"]

CONTRIB = "com.microsoft"  # operators that every ONNX Runtime has beside the standard ones

FP32 = "fp32"
INT8_STATIC, INT8_DYNAMIC = "int8 static", "int8 dynamic"
FP16 = "fp16"
INT8_BY_ROW, INT8_BY_DIMENSION = "int8 by row", "int8 by dimension"
INT4_BY_ROW, INT4_IN_BLOCKS = "int4 by row", "int4 in blocks"
INT8_BY_ROW_STATIC, INT8_BY_ROW_DYNAMIC = "int8 by row, static product", "int8 by row, dynamic product"
INT4_BY_ROW_STATIC, INT4_BY_ROW_DYNAMIC = "int4 by row, static product", "int4 by row, dynamic product"

# Forms of a table that is multiplied as well: how it is stored, and how these integers are multiplied. In other forms the
# product is one of floats.
SCORED_TABLE_FORMS = {
    INT8_BY_ROW_STATIC: (INT8_BY_ROW, INT8_STATIC),
    INT8_BY_ROW_DYNAMIC: (INT8_BY_ROW, INT8_DYNAMIC),
    INT4_BY_ROW_STATIC: (INT4_BY_ROW, INT8_STATIC),
    INT4_BY_ROW_DYNAMIC: (INT4_BY_ROW, INT8_DYNAMIC),
}

# What a table becomes where quality asks for more bits.
WIDER_FORM = {
    INT4_BY_ROW_STATIC: INT4_BY_ROW,
    INT4_BY_ROW_DYNAMIC: INT4_BY_ROW,
    INT4_BY_ROW: INT8_BY_ROW,
    INT4_IN_BLOCKS: INT8_BY_ROW,
    INT8_BY_DIMENSION: INT8_BY_ROW,
    INT8_BY_ROW_STATIC: INT8_BY_ROW,
    INT8_BY_ROW_DYNAMIC: INT8_BY_ROW,
    INT8_BY_ROW: FP16,
    FP16: FP32,
    INT8_STATIC: FP32,
    INT8_DYNAMIC: FP32,
}


@dataclass(frozen=True)
class WeightChoice(ToDictMixin):
    """One linear layer [inputs, outputs] or table [rows, dimensions], by the name of its weight, in one form.

    `speedups`: by batch size, how many times faster than in fp32 it was measured, alone in a graph; empty where it was
    not. `error`: what the answers are off by where nothing else is quantised, a fraction of how much they vary; None
    where that was not measured. `bytes`: of the weight in fp32 and in this form, scales included.
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
        """Whether the form is another than fp32."""
        return self.form != FP32


@dataclass(frozen=True)
class QuantizationPlan(ToDictMixin):
    """All choices of one ONNX file; what could not be quantised is listed as well, with the reason."""

    mode: Mode
    layers: tuple[WeightChoice, ...]
    tables: tuple[WeightChoice, ...]

    @property
    def choices(self) -> tuple[WeightChoice, ...]:
        """Layers, then tables."""
        return (*self.layers, *self.tables)

    @property
    def is_empty(self) -> bool:
        """Whether everything stays in fp32."""
        return not any(choice.is_quantized for choice in self.choices)

    def forms(self) -> dict[str, str]:
        """Return by the name of a weight the form it gets, fp32 left out."""
        return {choice.name: choice.form for choice in self.choices if choice.is_quantized}

    def with_choice(self, new: WeightChoice) -> Self:
        """Return the plan with another choice for the same weight."""

        def changed(choices: tuple[WeightChoice, ...]) -> tuple[WeightChoice, ...]:
            return tuple(new if choice.name == new.name else choice for choice in choices)

        return replace(self, layers=changed(self.layers), tables=changed(self.tables))
