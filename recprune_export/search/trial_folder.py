"""`TrialFolder`: the trials of a search on disk, a file for each, so that processes and machines can share them.

    trials/
        sparsity-0.7-seed-0.1f0a….json     a trial, or the reason why no plan has so few bytes
        bytes-0.1-seed-0.1f0a….tuned/      a model that was pruned and tuned, and still has to be timed
        .….partial                         what a process is writing, or what one that died left behind

Each is whole or absent: it is written under a hidden name, brought to the disk and renamed. The digits are the beginning of the
digest of all that the trials depend on, so that a folder may hold those of several settings.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recprune_export.bundle.manifest.manifest import MODEL
from recprune_export.errors import TooFewBytes
from recprune_export.metrics._paired_change import MetricChange
from recprune_export.onnx.export import OnnxFile
from recprune_export.output_files import ScratchFolder, make_sibling_path, optional_output
from recprune_export.program.signature import Signature
from recprune_export.search.operating_point import OperatingPoint
from recprune_export.search.trial import Trial, TrialKey
from recprune_export.search.trial_files import make_folder, write_json
from recprune_export.search.tuner import TunedModel
from recprune_export.stored_bits import StoredBits

DIGITS = 16  # of the digest, in a file's name
DESCRIPTION = "tuned.json"


@dataclass(frozen=True)
class TrialRecords:
    """The trials of a folder, and the messages for points that are too small for any plan."""

    trials: dict[TrialKey, Trial]
    too_few_bytes: dict[TrialKey, str]


class TrialFolder:
    """The trials of one `key`; without a folder only tuned models are kept, in a temporary folder."""

    def __init__(self, folder: Path | None, key: str) -> None:
        self._folder, self._key = folder, key
        if folder is None:
            self._scratch = ScratchFolder()
            self._models = self._scratch.path
        else:
            self._models = folder

    def read(self) -> TrialRecords:
        """Return all trials of this key; files that cannot be read are ignored."""
        records = TrialRecords({}, {})
        if self._folder is None:
            return records
        for path in sorted(self._folder.glob(f"*.{self._key[:DIGITS]}.json")):
            values = _read_json(path)
            if values is None or values.get("key") != self._key:
                continue
            with contextlib.suppress(ValueError, KeyError, TypeError):
                if "too_few_bytes" in values:
                    point = OperatingPoint.from_dict(values["point"])
                    records.too_few_bytes[point, int(values["seed"])] = str(values["too_few_bytes"])
                else:
                    trial = Trial.from_dict(values["trial"])
                    records.trials[trial.point, trial.seed] = trial
        return records

    def save(self, trial: Trial) -> None:
        """Write a trial and remove its tuned model. A trial that cannot be written causes a warning."""
        self._write((trial.point, trial.seed), {"trial": trial.to_dict()})
        self._remove(self._tuned_path((trial.point, trial.seed)))

    def save_too_few_bytes(self, key: TrialKey, error: TooFewBytes) -> None:
        """Record that no plan is as small as a point requires."""
        self._write(key, {"point": key[0].to_dict(), "seed": key[1], "too_few_bytes": str(error)})

    @contextlib.contextmanager
    def scratch(self, key: TrialKey) -> Iterator[Path]:
        """Yield a new folder for the file of a tuned model, which `save_tuned` renames; otherwise it is removed."""
        make_folder(self._models)
        folder = make_sibling_path(self._tuned_path(key))
        folder.mkdir()
        try:
            yield folder
        finally:
            self._remove(folder)

    def save_tuned(self, key: TrialKey, tuned: TunedModel, scratch: Path) -> None:
        """Keep a tuned model whose file is in `scratch`, unless another process has already saved it."""
        assert tuned.file is not None
        values = {
            "key": self._key,
            "change": None if tuned.change is None else tuned.change.to_dict(),
            "opset": tuned.file.opset,
            "data": None if tuned.file.data is None else tuned.file.data.name,
            "signature": tuned.file.signature.to_dict(),
            "bits": None if tuned.file.bits is None else tuned.file.bits.to_dict(),
        }
        write_json(scratch / DESCRIPTION, values)
        _sync(scratch / MODEL)
        if tuned.file.data is not None:
            _sync(tuned.file.data)
        try:
            os.rename(scratch, self._tuned_path(key))
        except OSError:
            if self.read_tuned(key) is None:
                raise

    def read_tuned(self, key: TrialKey) -> TunedModel | None:
        """Return a tuned model that is not yet timed, if there is one."""
        folder = self._tuned_path(key)
        values = _read_json(folder / DESCRIPTION)
        if values is None or values.get("key") != self._key:
            return None
        change, bits, data = values["change"], values["bits"], values["data"]
        return TunedModel(
            None if change is None else MetricChange.from_dict(change),
            OnnxFile(
                folder / MODEL,
                values["opset"],
                None if data is None else folder / data,
                Signature.from_dict(values["signature"]),
                bits=None if bits is None else StoredBits(**bits),
            ),
        )

    def remove_partial(self) -> None:
        """Remove partial files of killed processes; called when all trials are done."""
        for path in self._models.glob(".*.partial"):
            self._remove(path)

    def _write(self, key: TrialKey, values: dict[str, Any]) -> None:
        if self._folder is None:
            return
        path = self._folder / f"{self._name(key)}.json"
        with optional_output(f"The file {path}, from which an interrupted search continues,"):
            write_json(path, {"key": self._key, **values})

    def _name(self, key: TrialKey) -> str:
        point, seed = key
        time = f"-{point.microseconds:g}us" if point.microseconds else ""
        return f"{point.kind.replace(' ', '-')}-{point.value:g}{time}-seed-{seed}.{self._key[:DIGITS]}"

    def _tuned_path(self, key: TrialKey) -> Path:
        return self._models / f"{self._name(key)}.tuned"

    def _remove(self, path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
