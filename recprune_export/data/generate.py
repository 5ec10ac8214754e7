"""Generated data sets to try things on: ids by a power law, labels that can be learned. Never a stand-in for real rows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from recprune_export.errors import UsageError

USERS, ITEMS, CATEGORIES = 2000, 800, 12
TAGS = ("sale", "new", "eco", "gift", "kids", "sport", "home", "luxury")
LATENT = 6  # dimensions of the taste that makes the labels


def generate_clicks(path: Path, rows: int, seed: int = 0) -> None:
    """Write impressions with a label `clicked`: two id fields, two texts, tags, two numbers, and a split column.

    A click depends on the dot product of user's and item's taste, on category and device, and on the price: what
    factorisation models can learn, with noise that bounds the AUC near .8.

    Raises `UsageError` where the file ends in neither `.parquet` nor `.csv`.
    """
    import polars as pl

    rng = np.random.default_rng(seed)
    user, item = _power_law(rng, USERS, rows), _power_law(rng, ITEMS, rows)
    taste_user = rng.normal(size=(USERS, LATENT)) / LATENT**0.25
    taste_item = rng.normal(size=(ITEMS, LATENT)) / LATENT**0.25
    category_of = rng.integers(CATEGORIES, size=ITEMS)
    device = rng.integers(3, size=rows)
    price = np.exp(rng.normal(3.0, 0.7, size=ITEMS))[item]
    age = rng.integers(18, 75, size=USERS)[user].astype(np.float64)
    tag_mask = rng.random((ITEMS, len(TAGS))) < 0.25
    likes_tag = rng.normal(size=len(TAGS)) * 0.5
    logit = (
        1.6 * (taste_user[user] * taste_item[item]).sum(1)
        + rng.normal(size=(CATEGORIES, 3))[category_of[item], device] * 0.8
        + tag_mask[item] @ likes_tag
        - 0.6 * (np.log(price) - 3.0)
        + 0.3 * np.sin(age / 10.0)
        + rng.normal(size=ITEMS)[item] * 0.6
        - 0.7
    )
    tags = np.array(["|".join(tag for tag, on in zip(TAGS, mask, strict=True) if on) for mask in tag_mask])
    frame = pl.DataFrame(
        {
            "user": np.char.add("u", user.astype(str)),
            "item": np.char.add("i", item.astype(str)),
            "category": np.char.add("category ", category_of[item].astype(str)),
            "device": np.array(["phone", "tablet", "desktop"])[device],
            "tags": tags[item],
            "age": age,
            "price": price,
            "clicked": (rng.random(rows) < 1.0 / (1.0 + np.exp(-logit))).astype(np.int8),
            "split": rng.choice(["train", "valid", "test"], size=rows, p=[0.8, 0.1, 0.1]),
        }
    )
    _write(frame, path)


def generate_sequences(path: Path, rows: int, seed: int = 0) -> None:
    """Write a log of `user`, `item`, `position`: each next item is mostly a neighbour of the last, else any by popularity.

    Raises `UsageError` where the file ends in neither `.parquet` nor `.csv`.
    """
    import polars as pl

    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.geometric(0.1, size=max(1, rows // 9)) + 3, 4, 60)
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), rows)) + 1]
    successors = rng.integers(ITEMS, size=(ITEMS, 3))
    popular = _power_law(rng, ITEMS, int(lengths.sum()))
    follow, which = rng.random(len(popular)) < 0.7, rng.integers(3, size=len(popular))
    item = popular.copy()
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    starts = np.zeros(len(item), dtype=bool)
    starts[first] = True
    for row in range(len(item)):
        if follow[row] and not starts[row]:
            item[row] = successors[item[row - 1], which[row]]
    frame = pl.DataFrame(
        {
            "user": np.repeat(np.arange(len(lengths)), lengths),
            "item": np.char.add("i", item.astype(str)),
            "position": np.arange(len(item)) - np.repeat(first, lengths),
        }
    )
    _write(frame, path)


def _power_law(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Ids 0..count-1 with probability proportional to 1 / rank, the ranks shuffled."""
    weights = 1.0 / np.arange(1, count + 1)
    return rng.permutation(count)[rng.choice(count, size=size, p=weights / weights.sum())]


def _write(frame: object, path: Path) -> None:
    import polars as pl

    assert isinstance(frame, pl.DataFrame)
    writers: dict[str, Callable[[Path], object]] = {".parquet": frame.write_parquet, ".csv": frame.write_csv}
    if path.suffix not in writers:
        raise UsageError(f"{path} must end in .parquet or .csv.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writers[path.suffix](path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
