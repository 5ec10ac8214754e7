"""The reference recommenders by name."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from recprune_export.column_names import did_you_mean
from recprune_export.errors import UsageError
from recprune_export.recommenders.dcn_v2 import DCNv2
from recprune_export.recommenders.deepfm import DeepFM
from recprune_export.recommenders.dlrm import DLRM
from recprune_export.recommenders.input_spec import InputSpec
from recprune_export.recommenders.mmoe import MMoE
from recprune_export.recommenders.neumf import NeuMF
from recprune_export.recommenders.sasrec import SASRec
from recprune_export.recommenders.two_tower import TwoTower

RECOMMENDERS: Mapping[str, type[nn.Module]] = {
    "two_tower": TwoTower,
    "neumf": NeuMF,
    "deepfm": DeepFM,
    "dlrm": DLRM,
    "dcn_v2": DCNv2,
    "mmoe": MMoE,
    "sasrec": SASRec,
}


def find_recommender(name: str) -> type[nn.Module]:
    """Return the class of a recommender. Raises `UsageError` for an unknown name."""
    if name not in RECOMMENDERS:
        raise UsageError(
            f"'{name}' is not a recommender; choose one of {', '.join(RECOMMENDERS)}{did_you_mean(name, RECOMMENDERS)}"
        )
    return RECOMMENDERS[name]


def build_recommender(name: str, spec: InputSpec, config: Mapping[str, Any]) -> nn.Module:
    """Build a recommender for the inputs `spec`.

    Raises `UsageError` for an unknown name, or an option that the recommender does not have.
    """
    recommender = find_recommender(name)
    options = [option for option in inspect.signature(recommender).parameters if option != "spec"]
    unknown = [option for option in config if option not in options]
    if unknown:
        raise UsageError(f"{name} has no option '{unknown[0]}'; it has {', '.join(options)}.")
    return recommender(spec, **config)


def is_sequential(name: str) -> bool:
    """Return whether a recommender reads histories instead of fields."""
    return find_recommender(name) is SASRec


def is_multi_task(name: str) -> bool:
    """Return whether a recommender predicts several labels."""
    return find_recommender(name) is MMoE
