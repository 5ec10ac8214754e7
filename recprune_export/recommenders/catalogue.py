"""The reference recommenders by name."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from recprune_export.errors import UsageError
from recprune_export.recommenders.dcn_v2 import DCNv2
from recprune_export.recommenders.deepfm import DeepFM
from recprune_export.recommenders.dlrm import DLRM
from recprune_export.recommenders.input_spec import InputSpec
from recprune_export.recommenders.mmoe import MMoE
from recprune_export.recommenders.neumf import NeuMF
from recprune_export.recommenders.recommender_names import RECOMMENDER_NAMES, check_recommender_name
from recprune_export.recommenders.sasrec import SASRec
from recprune_export.recommenders.two_tower import TwoTower

RECOMMENDERS: Mapping[str, type[nn.Module]] = dict(
    zip(RECOMMENDER_NAMES, (TwoTower, NeuMF, DeepFM, DLRM, DCNv2, MMoE, SASRec), strict=True)
)


def find_recommender(name: str) -> type[nn.Module]:
    """Return the class of a recommender. Raises `UsageError` for an unknown name."""
    check_recommender_name(name)
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
