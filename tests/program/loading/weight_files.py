"""Small model files of each kind, as the libraries write them, and the network that they hold."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

REQUEST = {"user": np.array([1, 2, 3]), "x": np.ones((3, 2), dtype=np.float32)}
FACTORY = f"{__name__}:make"


class Scorer(nn.Module):
    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.table = nn.Embedding(10, dim)
        self.head = nn.Linear(dim + 2, 1)

    def forward(self, user: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.table(user), x], 1)).squeeze(1)


class Settings:
    """A configuration object like that of RecBole, which no reader may execute."""

    def __init__(self) -> None:
        self.parameters = {"dim": 4, "device": torch.device("cpu")}


def make(dim: int = 4) -> Scorer:
    torch.manual_seed(0)
    return Scorer(dim)


def answer(request: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return make()(request["user"], request["x"])  # type: ignore[no-any-return]


def write_request(folder: Path) -> Path:
    np.savez(folder / "request.npz", **REQUEST)
    return folder / "request.npz"


def adam_state(module: nn.Module) -> dict[str, Any]:
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.tensor([1]), torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def write_lightning(path: Path) -> None:
    """A checkpoint of Lightning 2: the network in an attribute of the LightningModule, with a metric beside it."""
    network = make()
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save(
        {
            "epoch": 3, "global_step": 12, "pytorch-lightning_version": "2.6.6", "loops": {"fit_loop": {"state_dict": {}}},
            "state_dict": {**state, "loss.pos_weight": torch.ones(1)}, "callbacks": {}, "lr_schedulers": [],
            "optimizer_states": [adam_state(make())], "hparams_name": "kwargs", "hyper_parameters": {"dim": 4},
        },
        path,
    )  # fmt: skip


def write_recbole(path: Path) -> None:
    """The `.pth` of RecBole 1.2: a pickled configuration beside the weights."""
    content = {
        "config": Settings(), "epoch": 0, "cur_step": 0, "best_valid_score": np.float64(0.3), "state_dict": make().state_dict(),
        "other_parameter": None, "optimizer": adam_state(make()),
    }  # fmt: skip
    torch.save(content, path, pickle_protocol=4)


def write_legacy(path: Path) -> None:
    torch.save({"net": make().state_dict(), "settings": Settings()}, path, _use_new_zipfile_serialization=False)


def write_text_pickle(path: Path) -> None:
    """Protocol 0, in which nothing but text is written."""
    path.write_bytes(pickle.dumps({"net": make().state_dict(), "settings": Settings()}, protocol=0))


def write_legacy_text(path: Path) -> None:
    torch.save({"net": make().state_dict()}, path, _use_new_zipfile_serialization=False, pickle_protocol=0)


def write_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model_state": make().state_dict(), "settings": Settings()}))


def write_safetensors(path: Path) -> None:
    save_file({f"module.{name}": tensor for name, tensor in make().state_dict().items()}, path, {"format": "pt"})


def write_sharded(folder: Path) -> None:
    """Shards and an index, as `save_pretrained` writes them, with no configuration of transformers."""
    folder.mkdir()
    shards = {
        "model-00001-of-00002.safetensors": ["table.weight"],
        "model-00002-of-00002.safetensors": ["head.weight", "head.bias"],
    }
    for file, names in shards.items():
        save_file({name: make().state_dict()[name] for name in names}, folder / file, {"format": "pt"})
    index = {
        "metadata": {"total_size": 188},
        "weight_map": {name: file for file, names in shards.items() for name in names},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_distributed(folder: Path) -> None:
    """A folder of one process."""
    dcp.save({"model": make().state_dict(), "optim": adam_state(make()), "step": 3}, checkpoint_id=folder, no_dist=True)


def write_chunks(folder: Path) -> None:
    """A folder of two processes that hold half of the table each; the file of the second has two parts in it."""
    folder.mkdir()
    state = make().state_dict()
    parts = {
        "table.weight": [((0, 0), state["table.weight"][:6]), ((6, 0), state["table.weight"][6:])],
        "head.weight": [((0, 0), state["head.weight"])],
        "head.bias": [((0,), state["head.bias"])],
    }
    tensors, places = {}, {}
    for number, (name, chunks) in enumerate(parts.items()):
        for order, (offsets, tensor) in enumerate(chunks):
            file = f"__{min(order + number, 1)}_0.distcp"
            with (folder / file).open("ab") as stream:
                start = stream.tell()
                torch.save(tensor.clone(), stream)
                length = stream.tell() - start
            places[MetadataIndex(name, torch.Size(offsets))] = storage_info(file, start, length)
        boxes = [ChunkStorageMetadata(torch.Size(offsets), tensor.shape) for offsets, tensor in chunks]
        tensors[name] = TensorStorageMetadata(TensorProperties(dtype=torch.float32), state[name].shape, boxes)
    (folder / ".metadata").write_bytes(pickle.dumps(Metadata(tensors, None, places)))


def storage_info(file: str, start: int, length: int) -> Any:
    from torch.distributed.checkpoint.filesystem import _StorageInfo

    return _StorageInfo(file, start, length)


def write_mlflow(folder: Path) -> None:
    """The folder of `mlflow.pytorch.save_state_dict`."""
    folder.mkdir()
    torch.save(make().state_dict(), folder / "state_dict.pth")


def write_mlflow_model(folder: Path) -> None:
    """The folder of `mlflow.pytorch.save_model` with a pickled module, whose tensors alone are read."""
    (folder / "data").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors:\n  pytorch:\n    model_data: data\n")
    (folder / "data" / "pickle_module_info.txt").write_text("mlflow.pytorch.pickle_module")
    torch.save(make(), folder / "data" / "model.pth")


def write_torchscript(path: Path) -> None:
    request = (torch.tensor(REQUEST["user"]), torch.tensor(REQUEST["x"]))
    torch.jit.save(torch.jit.trace(make(), request), path)


# Kinds that need the factory, by what writes them.
WEIGHT_FILES: dict[str, Callable[[Path], None]] = {
    "Lightning": write_lightning,
    "RecBole": write_recbole,
    "legacy": write_legacy,
    "pickle": write_pickle,
    "pickle of text": write_text_pickle,
    "legacy of text": write_legacy_text,
    "safetensors": write_safetensors,
    "sharded": write_sharded,
    "distributed": write_distributed,
    "distributed, two processes": write_chunks,
    "MLflow state dict": write_mlflow,
    "MLflow model": write_mlflow_model,
    "TorchScript": write_torchscript,
}
