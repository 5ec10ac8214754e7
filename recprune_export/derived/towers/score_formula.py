"""The formula by which a score follows from the inner product of two vectors: scales, shifts and increasing operators."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from recprune_export.codec import ToDictMixin

SCALE, SHIFT = "scale", "shift"
INCREASING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "Tanh": np.tanh,
    "Exp": np.exp,
    "Softplus": lambda x: np.logaddexp(0.0, x),
}


@dataclass(frozen=True)
class Step(ToDictMixin):
    """One step from the inner product to the score: `scale` and `shift` by `number`, or an increasing operator of ONNX."""

    operator: str
    number: float | None = None

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return the numbers after the step."""
        if self.number is None:
            return INCREASING[self.operator](values)
        return values * self.number if self.operator == SCALE else values + self.number


def apply_steps(steps: Sequence[Step], products: np.ndarray) -> np.ndarray:
    """Return the scores of inner products.

    >>> apply_steps((Step(SCALE, 2.0), Step(SHIFT, 1.0)), np.array([3.0])).tolist()
    [7.0]
    """
    for step in steps:
        products = step.apply(products)
    return products


def describe_steps(steps: Sequence[Step]) -> str:
    """Return the score as a formula of the inner product.

    >>> describe_steps((Step(SCALE, 2.0), Step(SHIFT, -1.0), Step("Sigmoid")))
    'sigmoid(2 * (user · item) - 1)'
    """
    text = "(user · item)"
    for step in steps:
        if step.number is None:
            text = f"{step.operator.lower()}({text})"
        elif step.operator == SCALE:
            text = f"{step.number:g} * {text if text.endswith(')') else f'({text})'}"
        else:
            text = f"{text} {'-' if step.number < 0 else '+'} {abs(step.number):g}"
    return text
