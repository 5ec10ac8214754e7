"""The kinds of model files and folders; the kind of a folder is found by the names in it, without importing PyTorch."""

from enum import Enum
from pathlib import Path

MANIFEST = "manifest.json"
DISTRIBUTED_METADATA = ".metadata"
MLFLOW_MODEL = "MLmodel"
HUGGING_FACE_CONFIG = "config.json"
# The weights of a Hugging Face folder, in the order of preference.
HUGGING_FACE_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


class ModelKind(Enum):
    """The kind of a model file; the value is its description in messages."""

    CHECKPOINT = "a checkpoint of recprune-export"
    STATE_DICT = "a PyTorch state dict"
    SAFETENSORS = "a safetensors file"
    SHARDED = "an index of weights in several files"
    HUGGING_FACE = "a Hugging Face folder"
    DISTRIBUTED = "a torch.distributed.checkpoint folder"
    MLFLOW = "an MLflow model folder"
    PICKLED_MODULE = "a pickle of Python objects"
    PROGRAM = "a .pt2 program"
    TORCHSCRIPT = "a TorchScript archive"
    MODULE = "a module in memory"
    OLD_PROGRAM = "a .pt2 program of an old torch"
    ONNX = "an ONNX model"
    DATA = "a data file"
    BUNDLE = "a bundle"
    DIRECTORY = "a directory"
    MISSING = "nothing"
    EMPTY = "an empty file"
    TRUNCATED_ZIP = "a truncated or damaged zip archive"
    OTHER_ZIP = "a zip archive not written by PyTorch"
    TAR = "a tar archive"
    OLD_TORCH_TAR = "a tar archive of an early version of PyTorch"
    UNKNOWN_DICT = "a PyTorch file that contains neither a state dict nor a checkpoint"
    OTHER = "a file of an unknown kind"


def find_folder_kind(folder: Path) -> ModelKind:
    """Return the kind of a folder by the files in it."""
    if (folder / MANIFEST).is_file():
        return ModelKind.BUNDLE
    if (folder / DISTRIBUTED_METADATA).is_file():
        return ModelKind.DISTRIBUTED
    if (folder / MLFLOW_MODEL).is_file() or (folder / "state_dict.pth").is_file():
        return ModelKind.MLFLOW
    return ModelKind.DIRECTORY if find_weights_file(folder) is None else ModelKind.HUGGING_FACE


def is_model_folder(path: Path) -> bool:
    """Return whether a path is a folder with a model to prune, as opposed to a bundle or another folder."""
    return path.is_dir() and find_folder_kind(path) not in (ModelKind.BUNDLE, ModelKind.DIRECTORY)


def find_weights_file(folder: Path) -> Path | None:
    """Return the file with the weights of a Hugging Face folder, or their index; None if there is none.

    A single safetensors file of another name is accepted next to a `config.json`.
    """
    usual = next((folder / name for name in HUGGING_FACE_WEIGHTS if (folder / name).is_file()), None)
    if usual is not None or not (folder / HUGGING_FACE_CONFIG).is_file():
        return usual
    others = sorted(folder.glob("*.safetensors"))
    return others[0] if len(others) == 1 else None


def list_model_files(folder: Path) -> list[str]:
    """Return the names of the files in a folder whose ending is that of a model."""
    endings = {".pt", ".pth", ".pt2", ".ckpt", ".bin", ".safetensors", ".onnx"}
    return sorted(path.name for path in folder.iterdir() if path.suffix in endings and path.is_file())


def find_mlflow_file(folder: Path) -> Path | None:
    """Return the model file of an MLflow folder, as `mlflow.pytorch` writes it; None if it contains a model of another library."""
    data = folder / "data"
    names = (folder / "state_dict.pth", data / "model.pt2", data / "model.pth", data / "model.pt")
    return next((path for path in names if path.is_file()), None)


def is_artifact(path: Path) -> bool:
    """Return whether a path is an exported model (a directory or an ONNX file), as opposed to a model to prune."""
    return path.suffix == ".onnx" or (path.is_dir() and not is_model_folder(path))
