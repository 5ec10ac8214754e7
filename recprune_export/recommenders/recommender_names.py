"""The names of the reference recommenders, without importing them."""

from recprune_export.column_names import did_you_mean
from recprune_export.errors import UsageError

RECOMMENDER_NAMES = ("two_tower", "neumf", "deepfm", "dlrm", "dcn_v2", "mmoe", "sasrec")


def check_recommender_name(name: str) -> None:
    """Raise `UsageError` for an unknown name."""
    if name not in RECOMMENDER_NAMES:
        raise UsageError(
            f"'{name}' is not a recommender; choose one of {', '.join(RECOMMENDER_NAMES)}{did_you_mean(name, RECOMMENDER_NAMES)}"
        )
