"""`StageCheckpoints`: finished stages of a long run, saved next to its target, from which a killed run resumes.

    .bundle.work/work.json       the fingerprint of the run
    .bundle.work/NAME.pt         weights, and the state of PyTorch's generator after them
    .bundle.work/NAME.json       plain values, and the SHA-256 of NAME.pt: written last, so that a checkpoint with it is whole

Nothing in it is unpickled. A damaged checkpoint is ignored.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from recprune_export.distributed.collectives import broadcast_module
from recprune_export.distributed.main_process import call_on_main
from recprune_export.distributed.ranks import is_main
from recprune_export.errors import ModelError, UsageError, ValidationFailed
from recprune_export.output_files import find_write_error
from recprune_export.progress import print_status, print_warning

KEY = "work.json"


@dataclass(frozen=True)
class StageCheckpoint:
    """A finished stage of an earlier run: plain values, and the tensors of a module by name.

    With several processes, the first one has the tensors, and sends them to the others.
    """

    values: Mapping[str, Any]
    state: Mapping[str, Tensor]
    rng_state: Tensor

    def restore(self, module: nn.Module) -> None:
        """Load the tensors into `module`, and restore the state of PyTorch's generator.

        Raises `RuntimeError` if names or shapes are not those of `module`.
        """
        if is_main():
            module.load_state_dict(dict(self.state))
        broadcast_module(module)
        torch.set_rng_state(self.rng_state)


@dataclass(frozen=True)
class StageCheckpoints:
    """Checkpoints by name in a folder; without a folder nothing is saved or loaded. With several processes, only the first one has the
    folder."""

    folder: Path | None = None
    key: str = ""

    @classmethod
    def open(cls, folder: Path, key: str, *, resume: bool) -> Self:
        """Open the folder of a run; checkpoints of a run with another key are removed; without `resume`, all are."""
        earlier_key = _read_key(folder)
        if resume and earlier_key != key:
            reason = "none was saved" if earlier_key is None else "its model, settings, rows or versions differ"
            print_status(f"No stage of an earlier run can be reused, since {reason}; starting from the beginning.")
        checkpoints = cls(folder, key)
        if not resume or earlier_key != key:
            checkpoints.remove()
        return checkpoints

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the saved checkpoints."""
        paths = () if self.folder is None or not self.folder.is_dir() else self.folder.glob("*.json")
        return tuple(sorted(path.stem for path in paths if path.name != KEY))

    def load(self, name: str) -> StageCheckpoint | None:
        """Load a checkpoint; None if it is missing or damaged."""
        found = self._read(name) if is_main() else None
        known = call_on_main(lambda: None if found is None else (found.values, found.rng_state))
        return found if is_main() or known is None else StageCheckpoint(known[0], {}, known[1])

    def _read(self, name: str) -> StageCheckpoint | None:
        if self.folder is None:
            return None
        try:
            values = json.loads((self.folder / f"{name}.json").read_bytes())
            weights = self.folder / f"{name}.pt"
            with weights.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != values["sha256"]:
                    return None
            content = torch.load(weights, weights_only=True, map_location="cpu", mmap=True)
            checkpoint = StageCheckpoint(values["values"], content["state"], content["random"])
        except Exception:  # a stage whose checkpoint cannot be read is run again
            return None
        print_status(f"Reusing {values['title']} of an earlier run.")
        return checkpoint

    def save(self, name: str, title: str, values: Mapping[str, Any], module: nn.Module) -> None:
        """Write a checkpoint; `title` names the stage in messages. If it cannot be written, a warning is printed and the run continues."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(exist_ok=True)
            _write(self.folder / KEY, json.dumps({"key": self.key}).encode())
            weights = self.folder / f"{name}.pt"
            partial = weights.with_suffix(".part")
            # given a path, C++ would write the file, and its error does not contain the reason
            with partial.open("wb") as file:
                torch.save({"state": dict(module.state_dict()), "random": torch.get_rng_state()}, file)
            digest = _sync_and_rename(partial, weights)
            _write(
                self.folder / f"{name}.json", json.dumps({"title": title, "sha256": digest, "values": values}).encode()
            )
        except (OSError, RuntimeError) as error:  # PyTorch reports a full disk as a RuntimeError
            self._remove_failed(name)
            cause = find_write_error(error)
            reason = cause.strerror if cause is not None else next(iter(str(error).splitlines()), "")
            print_warning(f"{title} could not be saved in {self.folder} ({reason}): --resume would start before it.")

    def _remove_failed(self, name: str) -> None:
        """Remove the files of an incomplete checkpoint, because the bundle needs their space."""
        assert self.folder is not None
        for suffix in (".json", ".pt", ".part"):
            with contextlib.suppress(OSError):
                (self.folder / name).with_suffix(suffix).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all checkpoints."""
        if self.folder is not None and self.folder.is_symlink():
            raise UsageError(f"{self.folder} is a link, but a folder is expected: remove the link.")
        if self.folder is not None and self.folder.exists():
            shutil.rmtree(self.folder)


NO_CHECKPOINTS = StageCheckpoints()


def get_checkpoint_folder(target: Path) -> Path:
    """Return the folder for the checkpoints of a bundle.

    >>> get_checkpoint_folder(Path("artifacts/ctr")).name
    '.ctr.work'
    """
    return target.with_name(f".{target.name}.work")


@contextlib.contextmanager
def remove_when_done(checkpoints: StageCheckpoints) -> Iterator[StageCheckpoints]:
    """Remove the checkpoints when the block ends or fails validation; on an interrupt, finished stages are kept, with a message."""
    try:
        yield checkpoints
    except (ValidationFailed, ModelError):
        checkpoints.remove()
        raise
    except BaseException:
        if checkpoints.names:
            print_status("The finished stages were saved; repeat the command with --resume to continue after them.")
        else:
            with contextlib.suppress(OSError, UsageError):
                checkpoints.remove()
        raise
    try:
        checkpoints.remove()
    except OSError as error:  # the bundle is written
        print_warning(f"{checkpoints.folder} cannot be removed ({error.strerror}): remove it manually.")


def _read_key(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / KEY).read_bytes())["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".part")
    partial.write_bytes(content)
    _sync_and_rename(partial, path)


def _sync_and_rename(partial: Path, path: Path) -> str:
    """Flush a file to the disk and rename it; return its SHA-256."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    os.replace(partial, path)
    return digest
