"""The checkpoint of `train`: a plain dict that `torch.load(weights_only=True)` reads."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recprune_export.data.encoding.encoder import Encoder
from recprune_export.data.encoding.encoding_values import read_encoder
from recprune_export.data.labels import LabelValues
from recprune_export.data.sequences import SequenceEncoder
from recprune_export.errors import ModelFileError, RecpruneError, UsageError
from recprune_export.output_files import find_write_error
from recprune_export.recommenders.catalogue import build_recommender
from recprune_export.recommenders.input_spec import InputSpec
from recprune_export.training.mapped_weights import SkipRandomInitialization, load_mapped, share_tensors

FORMAT = "recprune-export/checkpoint"
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A trained recommender: its configuration and weights, the encoder of its requests, and its test metrics."""

    recommender: str
    config: Mapping[str, Any]
    spec: InputSpec
    encoder: Encoder | SequenceEncoder
    state: Mapping[str, Tensor]
    metrics: Mapping[str, float]
    seed: int

    @property
    def label_values(self) -> dict[str, LabelValues]:
        """The labels that the recommender predicts, with the kinds for which it was trained."""
        kinds = self.encoder.schema.label_kinds
        return {label: LabelValues(fixed=kinds.get(label)) for label in self.spec.labels}

    def build(self) -> nn.Module:
        """Return the recommender with its weights, in eval mode; float32 ones are those of `state`, not copies.

        Raises `ModelFileError` if the weights do not fit.
        """
        try:
            with torch.device("meta"):  # only sizes: the model of a modified file may be larger than the memory
                sizes = {
                    name: t.shape
                    for name, t in build_recommender(self.recommender, self.spec, self.config).state_dict().items()
                }
            if sizes != {name: tensor.shape for name, tensor in self.state.items()}:
                raise ModelFileError(
                    f"The checkpoint's weights do not fit its {self.recommender}: it was modified after training."
                )
            with SkipRandomInitialization():
                module = build_recommender(self.recommender, self.spec, self.config)
            shared = share_tensors(module, self.state)
            module.load_state_dict({n: t for n, t in self.state.items() if n not in shared}, strict=False)
        except RecpruneError:
            raise
        except Exception as error:  # a constructor may raise any error for values of other types
            raise ModelFileError(
                f"The checkpoint does not describe a recommender ({type(error).__name__}): it was modified after training."
            ) from error
        return module.eval()

    def example_request(self) -> dict[str, Tensor]:
        """Return a request of zeros with which the recommender can be captured."""
        return self.spec.example_request()

    def save(self, path: Path) -> None:
        """Write the file atomically. Raises `UsageError` if it cannot be written."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "recommender": self.recommender,
            "config": dict(self.config),
            "spec": self.spec.to_dict(),
            "encoder": self.encoder.to_dict(),
            "state": dict(self.state),
            "metrics": dict(self.metrics),
            "seed": self.seed,
        }
        partial = path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                torch.save(content, file)
            os.replace(partial, path)
        except (OSError, RuntimeError) as error:
            cause = find_write_error(error)
            if cause is None:
                raise
            raise UsageError(f"{path} cannot be written: {cause.strerror}.") from error
        finally:
            partial.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing in the file is executed, and its weights stay in the file (`load_mapped`).

    Raises `ModelFileError` if it is missing, damaged, of another kind or of another version.
    """
    try:
        content = load_mapped(path)
    except Exception as error:  # torch, zipfile and pickle raise many unrelated classes
        raise ModelFileError(f"{path} cannot be read as a checkpoint ({type(error).__name__}).") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ModelFileError(f"{path} is not a checkpoint of recprune-export train.")
    if content.get("version") != VERSION:
        raise ModelFileError(
            f"{path} has checkpoint version {content.get('version')}; this release reads {VERSION}: train again."
        )
    try:
        check_storage_sizes(content["state"], path)
        return Checkpoint(
            recommender=content["recommender"],
            config=content["config"],
            spec=InputSpec.from_dict(content["spec"]),
            encoder=read_encoder(content["encoder"]),
            state=content["state"],
            metrics=content["metrics"],
            seed=content["seed"],
        )
    except ModelFileError:
        raise
    except Exception as error:  # any entry may have any wrong type
        raise ModelFileError(
            f"{path} lacks an entry of a checkpoint, or has an invalid one ({type(error).__name__}: {str(error)[:100]}); train again."
        ) from error


def check_storage_sizes(state: Mapping[str, Tensor], path: Path | str) -> None:
    """Raise `ModelFileError` if a tensor declares far more numbers than are stored: a stride of 0 repeats one number."""
    tolerated_bytes = 1 << 28  # allowed for views, in excess of the stored bytes
    for name, tensor in state.items():
        stored = (
            tensor.untyped_storage().nbytes() if isinstance(tensor, Tensor) and tensor.layout == torch.strided else None
        )
        if stored is not None and tensor.numel() * tensor.element_size() > stored + tolerated_bytes:
            raise ModelFileError(
                f"'{name}' in {path} declares {tensor.numel():,} numbers and contains {stored // tensor.element_size():,}: refused."
            )
