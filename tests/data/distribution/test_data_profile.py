"""Profiles know their own rows again, find what has moved, and are small."""

import json

import numpy as np
import pytest

from recprune_export.data import DataProfile, Drift, FieldValues, IdCells
from recprune_export.data.distribution.data_profile import HASH_CELLS, MAX_LISTED_IDS

VOCABULARY = 20_000


def draw(seed: int, rows: int = 20_000, shuffle: int | None = None) -> np.ndarray:
    """Ids 1.. by a power law; `shuffle` gives the frequencies to other ids."""
    weights = 1.0 / np.arange(1, VOCABULARY + 1) ** 0.8
    ids = 1 + np.random.default_rng(seed).choice(VOCABULARY, rows, p=weights / weights.sum())
    return ids if shuffle is None else 1 + np.random.default_rng(shuffle).permutation(VOCABULARY)[ids - 1]


def of(values: np.ndarray, held_out: np.ndarray, **kind: object) -> DataProfile:
    columns = [FieldValues("x", v, **kind) for v in (values, held_out)]  # type: ignore[arg-type]
    return DataProfile.fit([columns[0]], [columns[1]], tested=len(held_out))


def drift(profile: DataProfile, values: np.ndarray, **kind: object) -> Drift:
    (found,) = profile.drifts([FieldValues("x", values, **kind)])  # type: ignore[arg-type]
    return found


IDS = {"ids": True, "unknown": 0}


def test_rows_of_the_same_kind_have_not_drifted() -> None:
    profile = of(draw(0), draw(1), **IDS)
    below = [(d := drift(profile, draw(seed), **IDS)).psi <= d.chance and not d.major for seed in range(2, 22)]
    assert sum(below) >= 17


def test_permuted_ids_have() -> None:
    assert drift(of(draw(0), draw(1), **IDS), draw(2, shuffle=5), **IDS).major


def test_ids_beyond_those_that_are_listed_count_as_well() -> None:
    """All frequencies of the listed ids stay, one rare id takes what all rare ids had."""
    profile = of(draw(0), draw(1), **IDS)
    (field,) = profile.fields
    assert isinstance(field.cells, IdCells)
    listed = {i for cell in field.cells.listed for i in cell}
    values = draw(2)
    rare = np.array([i not in listed for i in values.tolist()])
    assert rare.mean() > 0.3
    values[rare] = values[rare][0]
    assert drift(profile, values, **IDS).major


@pytest.mark.parametrize(("then", "now", "major"), [(0.0, 0.2, True), (0.2, 0.2, False), (0.2, 0.0, False)])
def test_more_unknown_ids_are_drift_and_fewer_are_not(then: float, now: float, major: bool) -> None:
    rng = np.random.default_rng(0)

    def with_unknown(seed: int, share: float) -> np.ndarray:
        values = draw(seed)
        return np.where(rng.random(len(values)) < share, 0, values)

    found = drift(of(draw(0), with_unknown(1, then), **IDS), with_unknown(2, now), **IDS)
    assert found.major == major
    assert (found.before, found.now) == (pytest.approx(then, abs=0.01), pytest.approx(now, abs=0.01))


def test_padding_is_no_id() -> None:
    kind = {"ids": True, "padding": 0, "unknown": 1}
    lists = draw(0, 8000).reshape(-1, 4) + 1
    padded = np.concatenate([lists, np.zeros((2000, 12), dtype=np.int64)], axis=1)
    assert drift(of(lists, lists, **kind), padded, **kind).psi == 0.0


def test_numbers_that_moved_are_found_with_their_means() -> None:
    rng = np.random.default_rng(0)
    profile = of(rng.normal(size=5000), rng.normal(size=5000), ids=False)
    assert not drift(profile, rng.normal(size=3000), ids=False).major
    moved = drift(profile, rng.normal(1.0, 1.0, size=3000), ids=False)
    assert moved.major
    assert moved.now == pytest.approx(1.0, abs=0.1)


def test_a_column_of_one_value_and_one_of_two_can_be_compared() -> None:
    for values in (np.zeros(100), np.arange(100) % 2):
        profile = of(values, values, ids=False)
        assert drift(profile, values, ids=False).psi == 0.0
        assert drift(profile, np.full(100, 2.0), ids=False).major


def test_a_few_rows_do_not_make_a_major_shift() -> None:
    profile = of(draw(0), draw(1), **IDS)
    assert not any(drift(profile, draw(seed, rows=25), **IDS).major for seed in range(2, 12))


def test_a_profile_survives_its_json_and_is_small() -> None:
    columns = [
        FieldValues("ids", draw(0), **IDS),
        FieldValues("numbers", np.random.default_rng(0).normal(size=500), ids=False),
    ]  # type: ignore[arg-type]
    profile = DataProfile.fit(columns, columns, tested=7)
    text = json.dumps(profile.to_dict())
    assert DataProfile.from_dict(json.loads(text)) == profile
    assert len(text) < 10 * MAX_LISTED_IDS + 1000
    assert len(profile.fields[0].counts) <= 20 + 1 + HASH_CELLS + 1


def test_an_empty_field_and_one_that_is_gone_are_left_out() -> None:
    profile = of(draw(0), draw(1), ids=True, padding=0)
    assert profile.drifts([FieldValues("x", np.zeros(5, dtype=np.int64), ids=True, padding=0)]) == ()
    assert profile.drifts([FieldValues("y", draw(0), ids=True)]) == ()
