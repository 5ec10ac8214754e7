"""Synthetic data sets for tests and demonstrations: ids by a power law, labels that can be learned. They do not replace real rows."""

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from recprune_export.errors import UsageError
from recprune_export.output_files import check_output_file, make_sibling_path

ITEMS = 800
TAGS = ("sale", "new", "eco", "gift", "kids", "sport", "home", "luxury")


def generate_clicks(path: Path, rows: int, seed: int = 0) -> None:
    """Write impressions with a label `clicked`: two id fields, two strings, tags, two numbers, and a split column.

    A click depends on the dot product of latent vectors of user and item, on category and device, and on the price:
    effects that factorization models can learn, with noise that bounds the AUC near .8.

    Raises `UsageError` if the file ends in neither `.parquet` nor `.csv`, or cannot be written.
    """
    import polars as pl

    _check_path(path)
    users, categories, latent = 2000, 12, 6
    rng = np.random.default_rng(seed)
    user, item = _power_law(rng, users, rows), _power_law(rng, ITEMS, rows)
    user_factors = rng.normal(size=(users, latent)) / latent**0.25
    item_factors = rng.normal(size=(ITEMS, latent)) / latent**0.25
    item_category = rng.integers(categories, size=ITEMS)
    device = rng.integers(3, size=rows)
    price = np.exp(rng.normal(3.0, 0.7, size=ITEMS))[item]
    age = rng.integers(18, 75, size=users)[user].astype(np.float64)
    tag_mask = rng.random((ITEMS, len(TAGS))) < 0.25
    tag_effect = rng.normal(size=len(TAGS)) * 0.5
    logit = (
        1.6 * (user_factors[user] * item_factors[item]).sum(1)
        + rng.normal(size=(categories, 3))[item_category[item], device] * 0.8
        + tag_mask[item] @ tag_effect
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
            "category": np.char.add("category ", item_category[item].astype(str)),
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
    """Write a log of `user`, `item`, `position`: the next item is mostly a successor of the last one, otherwise drawn by popularity.

    Raises `UsageError` if the file ends in neither `.parquet` nor `.csv`.
    """
    import polars as pl

    _check_path(path)
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
    """Draw `size` ids of 0..count-1 with probability proportional to 1 / rank, the ranks shuffled."""
    weights = 1.0 / np.arange(1, count + 1)
    return rng.permutation(count)[rng.choice(count, size=size, p=weights / weights.sum())]


def _check_path(path: Path) -> None:
    if path.suffix not in (".parquet", ".csv"):
        raise UsageError(f"{path} must end in .parquet or .csv.")
    check_output_file(path)


def _write(frame: object, path: Path) -> None:
    import polars as pl

    assert isinstance(frame, pl.DataFrame)
    # First to memory: polars reports a full disk with a different error, and leaves an incomplete file.
    content = io.BytesIO()
    writers: dict[str, Callable[[io.BytesIO], object]] = {".parquet": frame.write_parquet, ".csv": frame.write_csv}
    writers[path.suffix](content)
    partial = make_sibling_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content.getbuffer())
        os.replace(partial, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
