"""Which output of a model predicts which label, by names, shapes and the values of the labels."""

import math
from collections.abc import Mapping, Sequence

from recprune_export.data.labels import LabelKind, LabelValues
from recprune_export.data.sequences import NEXT_ITEM
from recprune_export.errors import DataError, UsageError
from recprune_export.program.signature import BATCH, Output

MAX_CLASSES = 1000  # metrics hold the probabilities of all classes of all rows


def match_labels(
    outputs: Sequence[Output], labels: tuple[str, ...], values: Mapping[str, LabelValues]
) -> dict[str, str]:
    """Return the label of each output that has one.

    An output has the name of its label. If no output has, each label gets the first remaining output that fits its values: one number for
    each row, or one for each of at most `MAX_CLASSES` classes. The next item can be compared with a row of any length.

    Raises `UsageError` if a label has no output, `DataError` if its values do not fit the output.
    """
    if not labels:
        return {}
    if labels == (NEXT_ITEM,):
        return {next((o.name for o in outputs if o.name == NEXT_ITEM), outputs[0].name): NEXT_ITEM}
    candidates = [o for o in outputs if 0 < count_per_row(o) <= MAX_CLASSES]
    matched = {output.name: output.name for output in candidates if output.name in labels}
    remaining = [] if matched else candidates
    for label in labels:
        if label in matched.values():
            continue
        output = _choose_output(remaining, values[label])
        if output is None:
            _refuse_label(label, labels, outputs, values[label])
        else:
            matched[output.name] = label
            remaining.remove(output)
    for output in outputs:
        if output.name in matched:
            _check_fit(output, matched[output.name], values[matched[output.name]])
    return matched


def describe_matches(outputs: Sequence[Output], matched: Mapping[str, str]) -> tuple[str, ...]:
    """Return a note on which output has which label, where names do not say so and another output could be meant.

    >>> outputs = [Output("click", "float32", (BATCH,)), Output("buy", "float32", (BATCH,))]
    >>> describe_matches(outputs, {"click": "bought"})
    ("Label 'bought' is compared with output 'click', and none with 'buy', in this order since their names differ: if this \
is wrong, give the columns of labels the names of the outputs.",)
    >>> describe_matches(outputs, {"click": "click"}), describe_matches(outputs[:1], {"click": "bought"})
    ((), ())
    """
    candidates = [o.name for o in outputs if 0 < count_per_row(o) <= MAX_CLASSES]
    named = all(output == label for output, label in matched.items())
    if named or len(candidates) < 2 or NEXT_ITEM in matched.values():
        return ()
    pairs = ", ".join(f"label '{label}' is compared with output '{output}'" for output, label in matched.items())
    others = [f"'{name}'" for name in candidates if name not in matched]
    rest = f", and none with {' and '.join(others)}" if others else ""
    return (
        f"{pairs[0].upper()}{pairs[1:]}{rest}, in this order since their names differ: if this is wrong, give the columns of labels "
        "the names of the outputs.",
    )


def count_per_row(output: Output) -> int:
    """Return the size of an output for each row of a request; 0 if it is unknown."""
    sizes = [size for size in output.shape if size != BATCH]
    return math.prod(int(size) for size in sizes) if all(isinstance(size, int) for size in sizes) else 0


def _choose_output(outputs: Sequence[Output], values: LabelValues) -> Output | None:
    """Return the first output of a size that fits, the sizes in the order of how well they fit."""
    is_classes = bool(values.words) or values.fixed is LabelKind.CLASSES or values.fits_classes(int(values.high) + 1)
    if values.kind(2) is LabelKind.BINARY and not values.words:
        return next((o for o in outputs if count_per_row(o) in (1, 2)), None)
    exact = len(values.words) or int(values.high) + 1
    sizes = [count_per_row(o) for o in outputs]
    for fits in (
        lambda size: is_classes and size == exact,
        lambda size: size == 1,
        lambda size: is_classes and size > exact,
    ):
        position = next((p for p, size in enumerate(sizes) if fits(size)), None)
        if position is not None:
            return outputs[position]
    # The reason why the values do not fit the only output that could be meant is reported by `_check_fit`.
    several = [o for o in outputs if count_per_row(o) > 1]
    return several[0] if len(several) == 1 else None


def _refuse_label(label: str, labels: tuple[str, ...], outputs: Sequence[Output], values: LabelValues) -> None:
    shapes = ", ".join(f"'{o.name}' {list(o.shape)}" for o in outputs)
    if len(labels) > 1:
        raise UsageError(
            f"The label '{label}' has no output: the model returns {shapes} for the labels {', '.join(labels)}. Leave out --label "
            f"{label}, or let the model return one number per row and label, named after the labels."
        )
    raise UsageError(
        f"The label '{label}' is one number for each row, but the model returns {shapes}: leave out --label and --data, "
        "or let the model return one number for each row."
    )


def _check_fit(output: Output, label: str, values: LabelValues) -> None:
    size = count_per_row(output)
    where = f"The label '{label}' contains {values.describe()}, but the output '{output.name}'"
    if values.words and size == 1:
        raise DataError(f"{where} is one number per row: write the label as 0 and 1, or as numbers.")
    if values.words and size != len(values.words):
        raise DataError(
            f"{where} has {size} numbers for each row and not {len(values.words)}: write the label as 0 to {size - 1}, in the order "
            "of the logits."
        )
    if size > 1 and not values.fits_classes(size):
        raise DataError(
            f"{where} has {size} logits for each row, of the classes 0 to {size - 1}: write the label as 0 to {size - 1}, or let "
            "the model return one number for each row."
        )
