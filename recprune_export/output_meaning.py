"""The meaning of the numbers in an output (a logit, a probability, scores of items, a value), and their label."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from recprune_export.codec import DictMixin

NOT_STATED = "an output whose meaning is not specified"

_LABELED = {
    "logit": "the logit of {label}: the probability that {label} is 1 is sigmoid(logit) = 1 / (1 + exp(-logit))",
    "probability": "the probability that {label} is 1",
    "classes": "the logits of the classes of {label}: softmax over the last axis gives their probabilities",
    "class probabilities": "the probabilities of the classes of {label}",
    "ranking": "the scores of all items as the next item, by item id: a higher score ranks higher, softmax gives probabilities",
    "value": "the predicted value of {label}, in the unit of the label",
}
_UNLABELED = {
    "logit": "a logit of an unspecified label: its probability is sigmoid(logit) = 1 / (1 + exp(-logit))",
    "probability": "a probability of an unspecified label, the result of a sigmoid",
    "classes": "logits of unspecified classes: softmax over the last axis gives their probabilities",
    "class probabilities": "probabilities of unspecified classes",
    "ranking": "scores of items: a higher score ranks higher, softmax gives probabilities",
    "scores": "scores of items or candidates: a higher score ranks higher, the scale is unknown",
    "value": "a number whose meaning is not specified: no label was given for it when the bundle was made",
}
_COLUMN_SUFFIXES = {
    "logit": "logit",
    "probability": "probability",
    "classes": "logits",
    "class probabilities": "probabilities",
    "value": "prediction",
}


@dataclass(frozen=True)
class OutputMeaning(DictMixin):
    """The kind of an output, as in `finetuning.objective.OutputKind`, and the label that it predicts; None if not stated."""

    ENCODED = ("kind", "label", "meaning")

    kind: str | None = None
    label: str | None = None

    @property
    def meaning(self) -> str:
        """The sentence, without a subject."""
        kind = self.kind or NOT_STATED
        if self.label is not None and kind in _LABELED:
            return _LABELED[kind].format(label=f"'{self.label}'")
        return _UNLABELED.get(kind, kind)

    @property
    def probability(self) -> "OutputMeaning | None":
        """The meaning of the probabilities that follow from the output; None if none follow."""
        kind = {
            "logit": "probability",
            "probability": "probability",
            "classes": "class probabilities",
            "class probabilities": "class probabilities",
        }.get(self.kind or NOT_STATED)
        return None if kind is None else OutputMeaning(kind, self.label)

    def to_probability(self, values: np.ndarray) -> np.ndarray:
        """Return the probabilities of an output, of the same shape and dtype; the output must have a `probability`."""
        return _PROBABILITIES[self.kind or NOT_STATED](values.astype(np.float64)).astype(values.dtype)

    def column(self, output: str) -> str:
        """Return the name of the column for an output: the name of the output, and its kind if it is known.

        >>> OutputMeaning("logit", "clicked").column("clicked"), OutputMeaning("probability", "clicked").column("probability")
        ('clicked_logit', 'probability')
        >>> OutputMeaning().column("clicked"), OutputMeaning("value").column("y"), OutputMeaning("value", "y").column("y")
        ('clicked', 'y', 'y_prediction')
        """
        suffix = _COLUMN_SUFFIXES.get(self.kind or NOT_STATED)
        if suffix is None or output.endswith(suffix) or (self.kind == "value" and self.label is None):
            return output
        return f"{output}_{suffix}"


def read_meanings(section: Mapping[str, Any], outputs: list[str]) -> dict[str, OutputMeaning]:
    """Return the meaning of each of `outputs` from the section `scores` of a manifest; older bundles have none."""
    return {name: OutputMeaning.from_dict(section[name]) if name in section else OutputMeaning() for name in outputs}


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -logits))


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


_PROBABILITIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "logit": _sigmoid,
    "probability": np.asarray,
    "classes": _softmax,
    "class probabilities": np.asarray,
}
