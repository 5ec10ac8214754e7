"""`OpenBundle`: an opened bundle, with its manifest, and its artifact and dense model as predictors."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recprune_export.bundle._verify import check_files, read_manifest, reject_invalid_sections
from recprune_export.bundle.manifest.manifest import DATA_PROFILE, DENSE, ENCODING, MODEL, PLAN, PROGRAM, Manifest
from recprune_export.data.distribution.data_profile import DataProfile
from recprune_export.data.encoding.encoder import Encoder
from recprune_export.data.encoding.encoding_values import read_encoder
from recprune_export.data.labels import LabelKind
from recprune_export.data.sequences import NEXT_ITEM, SequenceEncoder
from recprune_export.errors import BundleError, UsageError
from recprune_export.finetuning.task import AnswerFunction, run_program
from recprune_export.onnx.runtime.session import make_session, run
from recprune_export.program.loading._load_program import load_archive
from recprune_export.program.program import Program
from recprune_export.pruning.plan import Plan
from recprune_export.settings import Settings


@dataclass(frozen=True)
class OpenBundle:
    """A bundle whose files match its manifest; `program` is its pruned program.

    `path` is the path of the user, `folder` holds the files; for a packed bundle it exists as long as the bundle is open.
    `encoder` is None for models that `train` did not make, `profile` is None if the bundle has none.
    """

    path: Path
    folder: Path
    manifest: Manifest
    settings: Settings
    plan: Plan
    program: Program
    encoder: Encoder | SequenceEncoder | None
    profile: DataProfile | None

    @property
    def artifact(self) -> AnswerFunction:
        """The ONNX model; if it has shared inputs, the program with the same outputs, since rows of data share no inputs."""
        if self.settings.export.shared_inputs:
            return lambda request: run_program(self.program, request)
        return _session(self.folder / MODEL, self.settings.latency.threads)

    @property
    def dense(self) -> AnswerFunction | None:
        """The dense baseline, if it was kept."""
        return _session(self.folder / DENSE, self.settings.latency.threads) if DENSE in self.manifest.files else None

    @property
    def label_kinds(self) -> dict[str, LabelKind]:
        """The recorded kinds of labels, so that new rows with other values do not change them."""
        recorded = self.manifest.settings.get("label_kinds", {})
        return {label: LabelKind(kind) for label, kind in recorded.items()}

    def labels(self, requested: tuple[str, ...]) -> tuple[str, ...]:
        """Return the labels of the rows: those of the encoding, or the given ones, or the recorded ones.

        Raises `UsageError` if there are none.
        """
        if isinstance(self.encoder, SequenceEncoder):
            return (NEXT_ITEM,)
        if self.encoder is not None:
            return self.encoder.schema.labels
        labels = requested or tuple(self.manifest.settings.get("labels", ()))
        if not labels:
            raise UsageError(f"{self.path} does not record the names of its labels: give --label.")
        return labels


def open_bundle(bundle: Path, folder: Path | None = None) -> OpenBundle:
    """Open a bundle; a packed one is unpacked in `folder`.

    Raises `BundleError` if a file differs from the manifest or cannot be read.
    """
    folder = folder or bundle
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    for name in (PLAN, PROGRAM):
        if name not in manifest.files:
            raise BundleError(
                f"{bundle} has no {name}, so that its compression cannot be judged or repeated: compress the model again."
            )
    with reject_invalid_sections(folder):
        encoding, profile = _read(folder, manifest, ENCODING), _read(folder, manifest, DATA_PROFILE)
        return OpenBundle(
            bundle,
            folder,
            manifest,
            Settings.from_dict(manifest.settings),
            Plan.load(folder / PLAN),
            load_archive(folder / PROGRAM),
            None if encoding is None else read_encoder(encoding),
            None if profile is None else DataProfile.from_dict(profile),
        )


def _read(bundle: Path, manifest: Manifest, name: str) -> Any:
    return json.loads((bundle / name).read_bytes()) if name in manifest.files else None


def _session(path: Path, threads: int) -> AnswerFunction:
    session = make_session(path, threads)
    return lambda request: run(session, request)
