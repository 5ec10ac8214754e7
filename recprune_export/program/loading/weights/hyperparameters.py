"""The hyperparameters that Lightning stores beside the weights (`save_hyperparameters`), as far as they are plain values."""

from typing import Any

from recprune_export.program.loading.weights.inert_objects import InertObject

HYPERPARAMETERS = "hyper_parameters"  # CHECKPOINT_HYPER_PARAMS_KEY of lightning.pytorch


def find_hyperparameters(content: Any) -> dict[str, Any]:
    """Return the hyperparameters of a checkpoint by name, without those that contain objects or tensors.

    >>> find_hyperparameters({"state_dict": {}, "hyper_parameters": {"sizes": {"user": 10}, "loss": object()}})
    {'sizes': {'user': 10}}
    """
    stored = content.get(HYPERPARAMETERS) if isinstance(content, dict) else None
    stored = stored.entries if isinstance(stored, InertObject) else stored  # Lightning's AttributeDict, a dict
    if not isinstance(stored, dict):
        return {}
    return {name: value for name, value in stored.items() if isinstance(name, str) and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)
