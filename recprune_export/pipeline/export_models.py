"""Export both models to ONNX and compare each file with its program."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
import torch

from recprune_export.bundle.manifest.manifest import DENSE, MODEL
from recprune_export.errors import ValidationFailed
from recprune_export.finetuning.task import (
    AnswerFunction,
    Task,
    run_program,
)
from recprune_export.onnx.export import OnnxFile, ServingConfig, export_onnx
from recprune_export.onnx.optimizer._rewrite import NonzeroLimits
from recprune_export.onnx.reading import find_weight_files, read_model
from recprune_export.onnx.runtime.session import make_session, refuses, run
from recprune_export.onnx.saving import save_onnx
from recprune_export.pipeline._prune import PrunedModel
from recprune_export.pipeline._quantize_export import QuantizedExport
from recprune_export.pipeline.float32_tolerance import MOST_IF_INFINITE, ROUNDED_RUNS, widen_tolerances
from recprune_export.program.program import Program
from recprune_export.program.requests.input_rules import apply_input_rules
from recprune_export.program.requests.random_requests import sample_request
from recprune_export.program.signature import Signature
from recprune_export.progress import show_status
from recprune_export.settings import Settings
from recprune_export.validation.edge_requests import (
    INFINITE_NUMBERS,
    RequestArrays,
    expand_shared_inputs,
    make_edge_requests,
    make_every_id_requests,
    make_refused_requests,
    squeeze_shared_inputs,
)
from recprune_export.validation.parity import NamedOutputs, ParityReport, Tolerances, check_parity

PARITY_ROWS = 512


@dataclass(frozen=True)
class ExportedModels:
    """The ONNX files of both models; `row_wise` is `pruned` with one row of every input for each output row, as in a test set.

    `parity` is that of the pruned file in fp32. After quantization `pruned` is the quantized file.
    """

    dense: OnnxFile
    pruned: OnnxFile
    row_wise: OnnxFile
    parity: ParityReport
    quantization: QuantizedExport | None = None

    def with_quantized(self, quantized: QuantizedExport | None) -> "ExportedModels":
        """Return the models with the quantized file in place of the pruned model; unchanged for None."""
        if quantized is None:
            return self
        row_wise = quantized.file if self.row_wise is self.pruned else self.row_wise
        return replace(self, pruned=quantized.file, row_wise=row_wise, quantization=quantized)

    def golden(self, program: Program, request: RequestArrays) -> RequestArrays:
        """Return the output for a golden request: that of `program`, or of the file if its weights have fewer bits."""
        if self.quantization is not None:
            return self.quantization.golden(request)
        signature = self.pruned.signature
        return run_program(program, apply_input_rules(expand_shared_inputs(request, signature), signature))

    @property
    def tolerances(self) -> Tolerances:
        """The tolerances of the golden outputs on other machines."""
        tolerances = self.parity.tolerances
        return tolerances if self.quantization is None else self.quantization.tolerances(tolerances)


def export_models(
    program: Program,
    pruned: PrunedModel,
    serving: ServingConfig,
    task: Task,
    folder: Path,
    onnx_file: Path | None = None,
) -> ExportedModels:
    """Write both models to `folder` and compare each with PyTorch: the dense model is the baseline of every figure.

    `onnx_file` is the ONNX file from which `program` was made; it then is the dense model.

    Raises `ExportError`, and `ValidationFailed` if an output differs.
    """
    with show_status("Exporting to ONNX"):
        plain = ServingConfig(runtime=serving.runtime)
        dense = (
            export_onnx(program, folder / DENSE, rewrites=(), serving=plain)
            if onnx_file is None
            else copy_onnx_file(onnx_file, program.signature, folder / DENSE)
        )
        file = export_pruned(pruned, serving, folder / MODEL)
    with show_status("Comparing outputs with PyTorch"):
        parity = validate_parity(pruned.program, file, task, ids=bool(pruned.plan.rows))
        validate_parity(program, dense, task, model="dense")
    row_wise = file
    if serving.shared:  # rows of a test set share no inputs; parity compares both files with the same program
        row_wise = export_onnx(pruned.program, folder / "row_wise.onnx", serving=plain)
    return ExportedModels(dense, file, row_wise, parity)


def copy_onnx_file(path: Path, signature: Signature, target: Path) -> OnnxFile:
    """Copy a user's ONNX file to `target` unchanged; weights in other files are written into one file next to it.

    It has no guards, so the rules of `signature` are applied to requests first.
    """
    model = read_model(path)
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    data = None
    if find_weight_files(model):
        data = save_onnx(ir.load(path), target)
    else:
        shutil.copyfile(path, target)
    return OnnxFile(target, opset, data, signature, guarded=False)


def make_serving_config(settings: Settings) -> ServingConfig:
    """Return the conditions for which the file of a job is made."""
    export = settings.export
    return ServingConfig(settings.latency.latency_batch_sizes, export.shared_inputs, runtime=export.runtime)


def export_pruned(pruned: PrunedModel, serving: ServingConfig, path: Path) -> OnnxFile:
    """Write the ONNX file of the pruned program; no rewrite may add non-zeros beyond its target."""
    limits = NonzeroLimits(pruned.target.tables, pruned.target.rest)
    storage = pruned.stages[-1].plan.storage
    bits = None if storage is None else storage.bits
    return export_onnx(pruned.program, path, serving=serving, limits=limits, bits=bits)


def validate_parity(
    program: Program, file: OnnxFile, task: Task, *, ids: bool = False, model: str = "pruned"
) -> ParityReport:
    """Compare the ONNX file of a program with it on test rows, sampled rows and edge rows, and on `ids` one by one.

    If they differ, the tolerances are increased by the measured rounding error of the program.

    Raises `ValidationFailed` with the first difference.
    """
    signature = file.signature
    requests: dict[str, RequestArrays] = {
        "test rows": squeeze_shared_inputs(task.requests(PARITY_ROWS, seed=0), signature),
        "drawn rows": sample_request(signature, PARITY_ROWS // 2, seed=1),
        **make_edge_requests(signature),
        **(make_every_id_requests(signature) if ids else {}),
    }
    predict = make_predictor(file)

    def as_read(request: RequestArrays) -> RequestArrays:
        return apply_input_rules(expand_shared_inputs(request, signature), signature)

    def by_program(request: RequestArrays) -> NamedOutputs:
        return run_program(program, as_read(request))

    report = check_parity(by_program, predict, requests)
    if not report.passed:
        answers = {label: by_program(request) for label, request in requests.items()}
        full = {label: as_read(request) for label, request in requests.items()}
        # Differences of numbers far beyond those of traffic may consist only of rounding errors.
        far = full.pop(INFINITE_NUMBERS, None)
        allowed = widen_tolerances(program, answers, full, report.tolerances)
        of_far = allowed
        if far is not None:
            of_far = widen_tolerances(
                program, answers, {INFINITE_NUMBERS: far}, report.tolerances, MOST_IF_INFINITE, ROUNDED_RUNS
            )
        if (allowed, of_far) != (report.tolerances, report.tolerances):
            report = check_parity(by_program, predict, requests, allowed, {INFINITE_NUMBERS: of_far})
    if not report.passed:
        raise ValidationFailed(
            f"The ONNX file of the {model} model does not reproduce the {model} model's outputs, so nothing was "
            f"written. {report.failures[0]}"
        )
    session = make_session(file.path, 1)
    for label, request in make_refused_requests(signature).items() if file.guarded else ():
        if not refuses(session, request):
            raise ValidationFailed(f"The ONNX model accepts {label}, which it should refuse, so nothing was written.")
    return report


def make_predictor(file: OnnxFile) -> AnswerFunction:
    """Return a function that runs requests on a file in ONNX Runtime, after the rules of its signature."""
    session = make_session(file.path, torch.get_num_threads())
    if file.guarded:
        return lambda request: run(session, request)
    names = [output.name for output in file.signature.outputs]

    def answer(request: RequestArrays) -> NamedOutputs:
        answers = run(session, apply_input_rules(request, file.signature))
        return {name: answers[name] for name in names}

    return answer
