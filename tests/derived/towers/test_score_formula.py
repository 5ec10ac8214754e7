"""The steps from an inner product to the score, as numbers and as text."""

import numpy as np

from recprune_export.derived.towers.score_formula import Step, apply_steps, describe_steps


def test_steps_are_a_formula() -> None:
    steps = (Step("shift", 0.5), Step("scale", 2.0), Step("Sigmoid"), Step("scale", 5.0))
    assert describe_steps(steps) == "5 * sigmoid(2 * ((user · item) + 0.5))"
    assert apply_steps(steps, np.array([-0.5])).tolist() == [2.5]
