import gc
import weakref
from collections.abc import Callable

import numpy as np
import pytest

from recprune_export.validation import Backend, log_ratio, measure_repeated_sessions

REQUESTS = {1: [{"x": np.zeros(1)}], 4: [{"x": np.zeros(4)}]}


class Session:
    """Stands for what takes memory."""

    def answer(self, request: object) -> None:
        pass


def test_each_seating_is_made_anew_in_the_other_order_when_the_last_is_gone() -> None:
    made: list[str] = []
    alive: list[weakref.ref[Session]] = []
    alive_at_start: list[int] = []

    def maker(name: str) -> Callable[[], Backend]:
        def make() -> Backend:
            if len(made) % 2 == 0:
                gc.collect()
                alive_at_start.append(sum(ref() is not None for ref in alive))
            session = Session()
            made.append(name)
            alive.append(weakref.ref(session))
            return Backend(name, session.answer)

        return make

    makers = {name: maker(name) for name in ("a", "b")}
    rng = np.random.default_rng(0)
    found = measure_repeated_sessions(makers, REQUESTS, count=3, seconds=0.0, rng=rng, min_rounds=7, max_rounds=7)
    assert made == ["a", "b", "b", "a", "a", "b"]
    assert alive_at_start == [0, 0, 0]
    assert [len(seating[batch][name]) for seating in found for batch in (1, 4) for name in "ab"] == [7] * 12


def test_the_ratio_is_of_what_is_seldom_disturbed() -> None:
    rng = np.random.default_rng(0)
    clean = rng.normal(1.0, 0.01, size=400)
    disturbed = clean + (rng.random(400) < 0.6) * rng.exponential(10.0, size=400)
    assert log_ratio({"a": 1.1 * disturbed, "b": clean}, "a", "b") == pytest.approx(np.log(1.1), abs=0.02)
