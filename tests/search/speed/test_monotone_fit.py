import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recprune_export.evidence import Estimate, Verdict, judge_at_least
from recprune_export.search.bisection import MAX_SPARSITY
from recprune_export.search.speed.monotone_fit import fit_monotone
from recprune_export.search.speed.speed_search import bisect_monotone

NUMBERS = st.lists(st.tuples(st.floats(-5.0, 5.0), st.floats(0.01, 2.0)), min_size=1, max_size=12)


@given(NUMBERS)
def test_the_fit_rises_and_lies_in_its_intervals(values: list[tuple[float, float]]) -> None:
    fitted = fit_monotone([Estimate(v, v - half, v + half) for v, half in values])
    for ends in zip(*((e.estimate, e.low, e.high) for e in fitted), strict=True):
        assert list(ends) == sorted(ends)
    assert sum(e.low <= e.high for e in fitted) == len(fitted) or len(values) > 1


@given(NUMBERS)
def test_what_rises_already_is_not_changed(values: list[tuple[float, float]]) -> None:
    estimates = [Estimate(v, v - half, v + half) for v, half in sorted(values, key=lambda pair: pair[0])]
    fitted = fit_monotone(estimates)
    np.testing.assert_allclose([e.estimate for e in fitted], [e.estimate for e in estimates])


def search(truth: float, target: float, noise: float, seed: int) -> tuple[float, int]:
    """Return the sparsity that is found on a noisy curve that reaches `target` at `truth`, and the number of trials."""
    rng, trials = np.random.default_rng(seed), []

    def measure(sparsity: float) -> Estimate:
        trials.append(sparsity)
        speed = target * (1.0 - truth) / (1.0 - sparsity)
        value = speed * np.exp(noise * rng.normal())
        return Estimate(value, value * np.exp(-1.96 * noise), value * np.exp(1.96 * noise))

    *_, (bracket, _fitted) = bisect_monotone(measure, target, 0.7, MAX_SPARSITY)
    return bracket.upper, len(trials)


def test_noise_is_never_taken_for_speed() -> None:
    found = [search(truth=0.8, target=1.5, noise=0.03, seed=seed) for seed in range(300)]
    short = np.mean([sparsity < 0.8 for sparsity, _ in found])  # certain of a speed that the model does not have
    assert short <= 0.05
    assert max(trials for _, trials in found) <= 10
    assert np.median([sparsity for sparsity, _ in found]) < 0.84


def test_a_measurement_in_the_wrong_order_decides_nothing_alone() -> None:
    values = {0.7: Estimate(1.3, 1.28, 1.32), 0.98: Estimate(1.7, 1.68, 1.72)}
    *_, (bracket, fitted) = bisect_monotone(lambda s: values.get(s, Estimate(1.5, 1.45, 1.55)), 1.5, 0.7, MAX_SPARSITY)
    assert bracket.upper == 0.98
    assert all(judge_at_least(e, 1.5) is not Verdict.HOLDS for s, e in fitted.items() if s < 0.98)
