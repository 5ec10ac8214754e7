"""Tensors that are divided among training processes: read if one process holds all of a tensor, otherwise refused with a message."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from recprune_export.errors import ModelFileError
from recprune_export.program.loading.weights.inert_objects import GlobalName, InertObject

_FLAT_PARAMETER = re.compile(r"(.*\.)?_?flat_param(_\d+)?")  # of FullyShardedDataParallel, by its versions


def is_sharded(value: Any) -> bool:
    """Return whether a value of a file is a `DTensor`, or a `ShardedTensor` that was not executed."""
    if isinstance(value, InertObject):
        return any(
            name.module.startswith("torch.distributed")
            for name in (value.constructor, *value.arguments[:1])
            if isinstance(name, GlobalName)
        )
    return isinstance(value, Tensor) and type(value).__module__.startswith("torch.distributed")


def find_whole_tensor(value: Any) -> Tensor | None:
    """Return a sharded tensor as a plain tensor; None if the file contains only a part of it."""
    if isinstance(value, InertObject):
        local, size = value.entries.get("_local_tensor"), value.arguments[2:3]
    else:
        local, size = getattr(value, "_local_tensor", None), (tuple(value.shape),)
    return local if isinstance(local, Tensor) and size == (tuple(local.shape),) else None


def refuse_shards(entries: Mapping[str, Any], source: str) -> None:
    """Raise `ModelFileError` if `entries` has sharded tensors of which the file contains only a part."""
    parts = [name for name, value in entries.items() if is_sharded(value) and find_whole_tensor(value) is None]
    if parts:
        raise ModelFileError(
            f"{source} contains one process's part of {_count(parts)}: save the whole state "
            "dict, returned by get_state_dict of torch.distributed.checkpoint.state_dict with StateDictOptions(full_state_dict=True), "
            "or a torch.distributed.checkpoint folder."
        )


def refuse_flat_parameters(names: Iterable[str], source: str) -> None:
    """Raise `ModelFileError` if tensors of several layers were saved as one, without their names and shapes."""
    flat = [name for name in names if _FLAT_PARAMETER.fullmatch(name)]
    if flat:
        raise ModelFileError(
            f"{source} contains {_count(flat)} flattened by FSDP, which joins the tensors of several layers: save the "
            "state_dict() inside of FSDP.state_dict_type(model, StateDictType.FULL_STATE_DICT)."
        )


def _count(names: list[str]) -> str:
    """Name the first of several tensors.

    >>> _count(["a", "b", "c"])
    "'a' and 2 other tensors"
    """
    others = {0: "", 1: " and another tensor"}.get(len(names) - 1, f" and {len(names) - 1} other tensors")
    return f"'{names[0]}'{others}"
