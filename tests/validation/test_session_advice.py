from dataclasses import replace
from pathlib import Path

import pytest

from recprune_export.onnx.session import SessionOptions
from recprune_export.progress import quiet
from recprune_export.validation import rotation, session_advice
from recprune_export.validation.session_advice import Trial, advise_session, best, candidates, combine, won
from recprune_export.validation.statistics import Estimate
from tests.gate.models import Shape, plain

PLAIN = SessionOptions()


def trial(speedup: float, margin: float = 0.01, **changes: object) -> Trial:
    return Trial(replace(PLAIN, **changes), Estimate(speedup, speedup - margin, speedup + margin))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tried", "wins"),
    [
        (trial(1.10, arena=False), True),
        (trial(1.02, arena=False), False),
        (trial(1.10, margin=0.09, arena=False), False),
        (trial(0.80, arena=False), False),
        (trial(1.10, threads=2), False),
        (trial(1.50, threads=2), True),
    ],
)
def test_a_change_must_win_beyond_doubt_and_threads_by_more(tried: Trial, wins: bool) -> None:
    assert won(PLAIN, tried) is wins
    assert best(PLAIN, [tried]) == (tried.options if wins else PLAIN)


def test_winners_are_combined_and_the_faster_of_two_ways_is_taken() -> None:
    trials = [
        trial(1.3, optimization="extended"),
        trial(1.2, optimization="basic"),
        trial(1.1, arena=False),
        trial(0.9, prepacking=False),
        trial(1.6, threads=4, spinning=False),
        trial(1.4, threads=4),
    ]
    expected = SessionOptions(threads=4, spinning=False, arena=False, optimization="extended")
    assert combine(PLAIN, trials) == expected
    assert combine(PLAIN, trials[::-1]) == expected
    assert combine(PLAIN, []) == PLAIN


def test_threads_are_tried_only_where_there_are_more_of_them() -> None:
    assert {option.threads for option in candidates(PLAIN, 1)} == {1}
    assert {option.threads for option in candidates(PLAIN, 8)} == {1, 8}
    assert all(len(option.differences(PLAIN)) in (1, 2) for option in candidates(PLAIN, 8))


@pytest.mark.parametrize("good", [True, False])
def test_a_combination_is_kept_only_if_it_wins_itself(
    good: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def race(path: Path, requests: object, plain: SessionOptions, others: list[SessionOptions], *_: object) -> object:
        fast = {"no arena": 1.2, "no prepacking": 1.1, "no arena, no prepacking": 1.4 if good else 1.0}
        names = {", ".join(option.differences(plain)): option for option in others}
        return {n: Trial(o, Estimate(s := fast.get(n, 0.9), s - 0.01, s + 0.01)) for n, o in names.items()}

    monkeypatch.setattr(session_advice, "_race", race)
    advice = advise_session(tmp_path, {1: [{}]}, most_threads=2)
    assert advice.options == SessionOptions(arena=False, prepacking=not good)
    assert advice.to_dict()["speedups"]["no arena, no prepacking"]["estimate"] == (1.4 if good else 1.0)


def test_a_real_model_gets_advice_that_can_be_followed(tmp_path: Path) -> None:
    shape = Shape()
    requests = rotation.draw(shape.signature(), (1, 16), seed=0)
    with quiet():
        advice = advise_session(plain(tmp_path / "model.onnx", shape), requests, most_threads=2, seconds=0.1)
    assert advice.batches == (1, 16)
    assert {"no arena", "threads 2", "threads 2, no spinning", "optimization basic"} <= set(advice.trials)
    assert SessionOptions.from_dict(advice.to_dict()["options"]) == advice.options
