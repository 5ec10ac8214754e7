"""`split_bundle`: write a bundle again, with a file for each of its two towers, the vectors of items and an index of them."""

import datetime
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recprune_export.bundle._verify import check_files, check_models, read_manifest, reject_invalid_sections
from recprune_export.bundle.contents import gather_derived_files, make_npy
from recprune_export.bundle.manifest.manifest import (
    DENSE,
    MODEL,
    REPORT,
    SAMPLE_INPUTS,
    SIGNATURE,
    Manifest,
)
from recprune_export.bundle.servers.server_files import make_derived_samples, select_server_files
from recprune_export.bundle.write import Content, HardLink, stage_bundle, write_bundle
from recprune_export.data.npz import MAX_EXAMPLE_BYTES, read_npz
from recprune_export.derived.derived_model import SourceModel
from recprune_export.derived.towers.score_formula import describe_steps
from recprune_export.derived.towers.search_index import IndexReport, choose_nearest, import_faiss, measure_index
from recprune_export.derived.towers.separable_score import SeparableScore
from recprune_export.derived.towers.tower_files import (
    OpenTower,
    Tower,
    combine_vectors,
    derive_tower,
    open_towers,
    write_tower,
)
from recprune_export.derived.validate_derived import ValidatedModel, validate_derived
from recprune_export.errors import DataError, ModelError, ValidationFailed
from recprune_export.onnx.export import OnnxFile
from recprune_export.onnx.runtime.session import make_session, run
from recprune_export.pipeline.bundle_pages import render_pages
from recprune_export.pipeline.evaluate_export import choose_measured_batches
from recprune_export.pipeline.towers.item_vectors import ItemVectors, read_item_vectors, read_vectors_of_rows
from recprune_export.program.requests.jagged_inputs import to_file_arrays
from recprune_export.program.requests.random_requests import sample_request
from recprune_export.program.signature import Signature
from recprune_export.progress import show_status
from recprune_export.settings import DEFAULT_DATA_SETTINGS, DataSettings, Settings
from recprune_export.validation.edge_requests import RequestArrays, squeeze_shared_inputs
from recprune_export.validation.parity import NamedOutputs, ParityReport, Tolerances, check_parity

VECTORS, IDS, INDEX = "items.npy", "item_ids.npy", "items.faiss"
DRAWN_ROWS = 256
UNIT = 1e-3  # vectors whose length differs from 1 by less count as normalized


@dataclass(frozen=True)
class ItemSource:
    """Files with rows of raw values: items with their ids in `id_column` (the first by default), and users whose best items are searched.

    `k`: the number of best items for the recall of the index. Without `index`, only the vectors are written.
    """

    items: Path
    id_column: str | None = None
    users: Path | None = None
    k: int = 100
    index: bool = True
    reading: DataSettings = DEFAULT_DATA_SETTINGS


@dataclass(frozen=True)
class SplitResult:
    """The bundle that was written, its section `towers`, whether the former one was signed, and notes."""

    target: Path
    manifest: Manifest
    towers: Mapping[str, Any]
    was_signed: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Pair:
    """The score of an ONNX file and its two towers."""

    score: SeparableScore
    user: OpenTower
    item: OpenTower


def split_bundle(
    bundle: Path,
    target: Path | None = None,
    *,
    source: ItemSource | None = None,
    user_input: str | None = None,
) -> SplitResult:
    """Write `bundle` to `target`, by default in place, with `user.onnx` and `item.onnx`; completely or not at all.

    With the items of `source` it also has their vectors and an index. The user's tower is that of `user_input`, otherwise that of shared
    inputs, otherwise that of the first input. The new bundle has no signature.

    Raises `ModelError` with the reason if the model cannot be split, `ValidationFailed` if the towers together do not give the outputs of
    the model, `BundleError`, `DataError` and `UsageError`.
    """
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    check_models(bundle, manifest)
    if source is not None and source.index:
        import_faiss()  # a missing library is reported before the job starts
    with reject_invalid_sections(bundle):
        signature = Signature.from_dict(manifest.signature)
        settings = Settings.from_dict(manifest.settings)
        tolerances = Tolerances(**manifest.tolerances)
    score, towers = open_towers(bundle / MODEL, signature, user_input)
    with stage_bundle(target or bundle) as target, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = _open_source(bundle, manifest, signature, tolerances)
        validated = _derive_towers(model, towers, settings, folder)
        pair = _Pair(score, *(OpenTower(tower, folder / tower.file) for tower in towers))
        parity = _check_together(pair, model)
        files: dict[str, Content] = {
            **gather_derived_files(validated),
            **make_derived_samples(manifest.name, validated),
        }
        notes = _describe_left_out(manifest) if source is None else ()
        section = _describe_pair(pair, model, parity)
        if source is not None:
            items = _read_items(bundle, manifest, pair, source)
            files |= {VECTORS: make_npy(items.vectors), IDS: make_npy(items.ids)}
            section["items"] = {
                "file": VECTORS,
                "ids": IDS,
                "id_column": items.column,
                "data": source.items.name,
                "count": len(items.ids),
                "bytes": items.vectors.nbytes,
            }
            notes = items.notes
            if source.index:
                section["index"], more = _index(bundle, manifest, pair, items, source, folder)
                files[INDEX] = folder / INDEX
                notes += more
        manifest = manifest.model_copy(
            update={
                "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "models": {**manifest.models, **{of.model.name: of.to_dict() for of in validated}},
                "towers": section,
                "notes": list(dict.fromkeys([*manifest.notes, *notes])) if source is not None else manifest.notes,
            }
        )
        manifest = Manifest.model_validate(manifest.model_dump(exclude={"checksum"}))
        files = {**_keep_files(bundle, manifest), **files}
        servers = select_server_files(files)
        files |= render_pages(manifest, files, servers, settings.latency, report=REPORT in files)
        was_signed = (bundle / SIGNATURE).exists()
        write_bundle(target, files, manifest)
    return SplitResult(target, manifest, section, was_signed, notes)


def _describe_left_out(manifest: Manifest) -> tuple[str, ...]:
    """Return a note if a bundle has vectors of items, since they belong to its former towers."""
    left_out = [name for name in (VECTORS, IDS, INDEX) if name in manifest.files]
    if not left_out:
        return ()
    return (f"The former {', '.join(left_out)} are left out: give --items to write them again.",)


def _open_source(bundle: Path, manifest: Manifest, signature: Signature, tolerances: Tolerances) -> SourceModel:
    """Return the model of a bundle, with its golden rows and sampled ones as the rows of traffic."""
    data = bundle / f"{MODEL}.data"
    file = OnnxFile(bundle / MODEL, manifest.opset, data if data.exists() else None, signature)
    session = make_session(bundle / MODEL, 1)
    golden = read_npz(bundle / SAMPLE_INPUTS, MAX_EXAMPLE_BYTES)
    drawn = sample_request(Signature(signature.without_shared().inputs, ()), DRAWN_ROWS, seed=0)
    # A shared input has one golden row; as rows of traffic it has as many as the others.
    count = max(len(values) for values in golden.values())
    rows = {
        name: np.concatenate([np.resize(golden[name], (count, *values.shape[1:])), values])
        for name, values in drawn.items()
    }
    return SourceModel(file, lambda request: run(session, request), rows, tolerances)


def _derive_towers(
    model: SourceModel, towers: tuple[Tower, Tower], settings: Settings, folder: Path
) -> tuple[ValidatedModel, ...]:
    batches, threads = choose_measured_batches(settings.latency), settings.latency.threads
    validated = []
    for tower in towers:
        own = {i.name for i in tower.inputs}
        others = {name: values for name, values in model.rows.items() if name not in own}
        derived = derive_tower(model, folder, tower=tower, others=others)
        validated.append(
            validate_derived(
                derived, model, batches, threads=threads, seed=settings.seed, runtime=settings.export.runtime
            )
        )
    return tuple(validated)


def _check_together(pair: _Pair, model: SourceModel) -> ParityReport:
    """Compare the scores of both towers' vectors with those of `model.onnx`. Raises `ValidationFailed` if they differ."""
    (output,) = model.file.signature.outputs

    def answer(request: RequestArrays) -> NamedOutputs:
        scores = combine_vectors(pair.score, pair.user.answer(request), pair.item.answer(request)).astype(output.dtype)
        return {output.name: scores.reshape(-1, *[1] * (len(output.shape) - 1))}

    rows = squeeze_shared_inputs(model.rows, model.file.signature)
    report = check_parity(model.answer, answer, {"golden and drawn rows": rows}, model.tolerances)
    if not report.passed:
        raise ValidationFailed(
            f"user.onnx and item.onnx do not reproduce the outputs of model.onnx, so nothing was written. {report.failures[0]}"
        )
    return report


def _describe_pair(pair: _Pair, model: SourceModel, parity: ParityReport) -> dict[str, Any]:
    """Return the section of the manifest on the towers."""
    lengths = np.concatenate([np.linalg.norm(tower.answer(model.rows), axis=1) for tower in (pair.user, pair.item)])
    user, item = pair.user.tower, pair.item.tower
    (output,) = model.file.signature.outputs
    return {
        "user": {"file": user.file, "inputs": [i.name for i in user.inputs], "output": user.output},
        "item": {"file": item.file, "inputs": [i.name for i in item.inputs], "output": item.output},
        "meeting": pair.score.meeting,
        "similarity": "cosine" if np.abs(lengths - 1.0).max() < UNIT else "inner product",
        "width": user.width,
        "score": output.name,
        "formula": f"{output.name} = {describe_steps(pair.score.steps)}",
        "steps": [step.to_dict() for step in pair.score.steps],
        "parity": parity.to_dict(),
    }


def _read_items(bundle: Path, manifest: Manifest, pair: _Pair, source: ItemSource) -> ItemVectors:
    with show_status("Computing vectors of items"):
        return read_item_vectors(bundle, manifest, pair.item, source.items, source.id_column, source.reading)


def _index(
    bundle: Path, manifest: Manifest, pair: _Pair, items: ItemVectors, source: ItemSource, folder: Path
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the entry on the index of the items, with that of the dense model if the bundle has it, and notes."""
    k = min(source.k, len(items.ids))
    users, notes = _read_users(bundle, manifest, pair, source)
    with show_status("Indexing items"):
        report = measure_index(items.vectors, users, k, folder / INDEX)
    entry = {"file": INDEX, **report.to_dict()}
    if DENSE not in manifest.files:
        return entry, notes
    try:
        dense, overlap = _index_dense(bundle, manifest, pair, items, users, source, folder)
    except (ModelError, DataError) as error:
        return entry, (*notes, f"No index of the dense model for comparison: {error}")
    return {**entry, "dense": {**dense.to_dict(), "same_best_items": overlap}}, notes


def _read_users(
    bundle: Path, manifest: Manifest, pair: _Pair, source: ItemSource
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the vectors of users for the search, from the file of users or from requests sampled from the signature, and notes."""
    if source.users is not None:
        vectors, notes = read_vectors_of_rows(bundle, manifest, pair.user, source.users, source.reading)
        return vectors[:: max(1, len(vectors) // DRAWN_ROWS)][:DRAWN_ROWS], notes
    return _answer_drawn(pair.user), ()


def _answer_drawn(tower: OpenTower) -> np.ndarray:
    signature = tower.tower.signature
    return tower.answer(to_file_arrays(signature, sample_request(signature, DRAWN_ROWS, seed=1)))


def _index_dense(
    bundle: Path,
    manifest: Manifest,
    pair: _Pair,
    items: ItemVectors,
    users: np.ndarray,
    source: ItemSource,
    folder: Path,
) -> tuple[IndexReport, float]:
    """Index the items by the dense model; return the report, and the mean fraction of its exact best items that the pruned model shares."""
    signature = Signature.from_dict(manifest.signature).without_shared()
    score, towers = open_towers(bundle / DENSE, signature, pair.user.tower.inputs[0].name)
    paths = tuple(folder / f"dense_{tower.file}" for tower in towers)
    for tower, path in zip(towers, paths, strict=True):
        write_tower(bundle / DENSE, tower, path)
    dense = _Pair(score, *map(OpenTower, towers, paths))
    dense_items = _read_items(bundle, manifest, dense, source)
    dense_users, _ = _read_users(bundle, manifest, dense, source)
    k = min(source.k, len(items.ids))
    report = measure_index(dense_items.vectors, dense_users, k, folder / f"dense_{INDEX}")
    best, dense_best = (
        choose_nearest(of, by, k)[1] for of, by in ((items.vectors, users), (dense_items.vectors, dense_users))
    )
    shared = [len(set(a) & set(b)) / k for a, b in zip(best.tolist(), dense_best.tolist(), strict=True)]
    return report, float(np.mean(shared))


def _keep_files(bundle: Path, manifest: Manifest) -> dict[str, Content]:
    """Return the files of a bundle that are kept; copies of the model for a server remain hard links."""
    names = [name for name in manifest.files if name not in (VECTORS, IDS, INDEX)]
    originals = {manifest.files[name].sha256: name for name in reversed(names) if not name.startswith("triton/")}
    files: dict[str, Content] = {}
    for name in names:
        original = originals.get(manifest.files[name].sha256)
        is_link = name.startswith("triton/") and original is not None and original.startswith(MODEL)
        files[name] = HardLink(original) if is_link and original is not None else bundle / name
    return files
