"""Gather the files of a bundle from the results of the earlier stages."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recprune_export.bundle.manifest.manifest import ENCODING, PLAN, PROGRAM
from recprune_export.channels.analysis import Analysis
from recprune_export.data.encoding.vocabulary_index import encoding_summary
from recprune_export.derived.validate_derived import ValidatedModel
from recprune_export.finetuning.group_lasso import RegularizedProgram
from recprune_export.onnx.export import OnnxFile
from recprune_export.program.program import Program
from recprune_export.program.requests.jagged_inputs import to_file_arrays
from recprune_export.pruning.apply.soundness import Soundness
from recprune_export.pruning.plan import Plan
from recprune_export.training.loop import FitResult


def plan_summary(
    plan: Plan,
    analysis: Analysis,
    soundness: Soundness,
    fit_result: FitResult | None,
    regularized: RegularizedProgram | None = None,
    *,
    metric: str,
) -> dict[str, Any]:
    """Return plain JSON values: removed channels, frozen axes with reasons, the soundness check and the fine-tuning.

    `metric` is the name of the validation metric by which fine-tuning chose an epoch.
    """
    groups = [
        {
            "group": g.group,
            "label": analysis.group(g.group).label,
            "kind": g.kind,
            "width": g.width,
            "kept": len(g.keep),
        }
        for g in plan.groups
    ]
    return {
        "score": plan.score,
        "fields": plan.fields.to_dict(),
        "groups": groups,
        **({} if plan.storage is None else {"storage": plan.storage.to_dict()}),
        **({"inferred_rules": [rule.to_dict() for rule in analysis.inferred]} if analysis.inferred else {}),
        "frozen": [axis.to_dict() for axis in analysis.frozen],
        "soundness": soundness.to_dict(),
        "regularization": None if regularized is None else regularized.to_dict(),
        "finetuning": None if fit_result is None else {"metric": metric, **fit_result.to_dict()},
    }


def gather_bundle_files(
    program: Program,
    models: Sequence[OnnxFile],
    plan: Plan,
    samples: Mapping[str, Mapping[str, np.ndarray]],
    scratch: Path,
) -> dict[str, Path | bytes]:
    """Return the files of a bundle by name, except its README and manifest; `scratch` is a folder for temporary files.

    `samples` contains the golden request, its outputs and possibly others, by the names of their files.
    """
    program.save(scratch / PROGRAM)
    files: dict[str, Path | bytes] = {
        PROGRAM: scratch / PROGRAM,
        PLAN: format_json(plan.to_dict()),
        **{name: make_npz(arrays) for name, arrays in samples.items()},
    }
    for model in models:
        files[model.path.name] = model.path
        if model.data is not None:
            files[model.data.name] = model.data
    return files


def gather_derived_files(models: Sequence[ValidatedModel]) -> dict[str, Path | bytes]:
    """Return the ONNX files that are made from `model.onnx`, with their samples and additional files, by name."""
    files: dict[str, Path | bytes] = {}
    for validated in models:
        model = validated.model
        inputs, outputs = model.samples
        files |= {path.name: path for path in model.list_files()}
        files |= {
            inputs: make_npz(to_file_arrays(model.file.signature, validated.golden)),
            outputs: make_npz(validated.answer),
            **model.files,
        }
    return files


def read_encoding(files: Mapping[str, bytes]) -> dict[str, Any] | None:
    """Return the section `encoding` of a manifest; None if the bundle has no encoding."""
    return encoding_summary(json.loads(files[ENCODING]), ENCODING) if ENCODING in files else None


def format_json(values: Any) -> bytes:
    """Return indented JSON in UTF-8."""
    return json.dumps(values, ensure_ascii=False, indent=1).encode()


def format_compact_json(values: Any) -> bytes:
    """Return JSON in UTF-8 without spaces, for large files."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()


def make_npz(arrays: Mapping[str, np.ndarray], *, compressed: bool = False) -> bytes:
    """Return the content of an `.npz` file."""
    buffer = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def make_npy(array: np.ndarray) -> bytes:
    """Return the content of an `.npy` file; no objects, so that it is read without unpickling."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
