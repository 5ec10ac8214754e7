"""What is served: the ONNX files, held to the program that they were made of."""

from dataclasses import dataclass
from pathlib import Path

import torch

from recprune_export.bundle.manifest.manifest import MODEL
from recprune_export.errors import ValidationFailed
from recprune_export.finetuning.task import (
    Predictor,
    Task,
    run_program,
)
from recprune_export.onnx.export import OnnxFile, ServingConfig, export_onnx
from recprune_export.onnx.optimizer.rewrite import NonzeroLimits
from recprune_export.onnx.runtime.session import make_session, run
from recprune_export.pipeline.float32_tolerance import widen_tolerances
from recprune_export.pipeline.prune import PrunedModel
from recprune_export.pipeline.quantize_export import QuantizedExport, quantize_export
from recprune_export.program.program import Program
from recprune_export.program.random_requests import sample_request
from recprune_export.program.signature import Signature
from recprune_export.progress import show_status
from recprune_export.settings import Settings
from recprune_export.validation.edge_requests import (
    RequestArrays,
    expand_shared_inputs,
    make_edge_requests,
    make_every_id_requests,
    squeeze_shared_inputs,
)
from recprune_export.validation.latency.request_cycle import RequestCycle, count_cycle_rows, split_into_cycles
from recprune_export.validation.parity import NamedOutputs, ParityReport, Tolerances, check_parity

PARITY_ROWS = 512


@dataclass(frozen=True)
class ExportedModels:
    """The ONNX files of both models; `row_wise` is `pruned` where every input has a row for each answer, as in a test set.

    `parity` is that of the pruned file in fp32; `quantization` what became of it where that was asked for, and then it is `pruned`.
    """

    dense: OnnxFile
    pruned: OnnxFile
    row_wise: OnnxFile
    parity: ParityReport
    quantization: QuantizedExport | None

    def golden(self, program: Program, request: RequestArrays) -> RequestArrays:
        """Return the answer to a golden request: that of `program`, or of the file where it has fewer bits."""
        if self.quantization is not None:
            return self.quantization.golden(request)
        return run_program(program, expand_shared_inputs(request, self.pruned.signature))

    @property
    def tolerances(self) -> Tolerances:
        """Within which another machine gives the golden answers."""
        stated = self.parity.tolerances
        return stated if self.quantization is None else self.quantization.tolerances(stated)


def export_models(
    program: Program, pruned: PrunedModel, settings: Settings, task: Task, folder: Path
) -> ExportedModels:
    """Write both models to `folder`, compare the pruned one with PyTorch, then store it in fewer bits where that is asked for.

    Raises `ExportError`, and `ValidationFailed` where an answer differs.
    """
    with show_status("Exporting to ONNX"):
        dense = export_onnx(program, folder / "dense.onnx", rewrites=())
        file = export_pruned(pruned, settings, folder / MODEL)
    with show_status("Comparing answers with PyTorch's"):
        parity = validate_parity(pruned.program, file, task, ids=bool(pruned.plan.rows))
    requests = make_latency_requests(settings, task, file.signature)
    fewer_bits = quantize_export(file, task, settings, requests, folder / "quantised")
    file = file if fewer_bits is None else fewer_bits.file
    each_row = file
    if settings.shared_inputs:  # rows of a test set share nothing; parity holds both files to the same program
        each_row = export_onnx(pruned.program, folder / "each_row.onnx")
    return ExportedModels(dense, file, each_row, parity, fewer_bits)


def export_pruned(pruned: PrunedModel, settings: Settings, path: Path) -> OnnxFile:
    """Write the ONNX file that is served; no rewrite may undo what was removed."""
    serving = ServingConfig(settings.batches, settings.shared_inputs)
    return export_onnx(
        pruned.program, path, serving=serving, limits=NonzeroLimits(pruned.target.tables, pruned.target.rest)
    )


def validate_parity(program: Program, file: OnnxFile, task: Task, *, ids: bool = False) -> ParityReport:
    """Compare the ONNX file with the pruned program on test rows, drawn rows and edge rows, and on `ids` one by one.

    Where they differ, what rounding alone does to the program is measured, and allowed.

    Raises `ValidationFailed` with the first difference.
    """
    signature = file.signature
    requests = {
        "test rows": squeeze_shared_inputs(task.requests(PARITY_ROWS, seed=0), signature),
        "drawn rows": sample_request(signature, PARITY_ROWS // 2, seed=1),
        **make_edge_requests(signature),
        **(make_every_id_requests(signature) if ids else {}),
    }
    session = make_predictor(file)

    def by_program(request: RequestArrays) -> NamedOutputs:
        return run_program(program, expand_shared_inputs(request, signature))

    report = check_parity(by_program, session, requests)
    if not report.passed:
        answers = {label: by_program(request) for label, request in requests.items()}
        full = {label: expand_shared_inputs(request, signature) for label, request in requests.items()}
        allowed = widen_tolerances(program, answers, full, report.tolerances)
        if allowed != report.tolerances:
            report = check_parity(by_program, session, requests, allowed)
    if not report.passed:
        raise ValidationFailed(
            f"The ONNX model does not give the pruned model's outputs, so nothing was written. {report.failures[0]}"
        )
    return report


def make_latency_requests(settings: Settings, task: Task, signature: Signature) -> dict[int, RequestCycle]:
    """Return different requests of test rows for each batch size; what is shared is the same in all rows of one."""
    return split_into_cycles(
        task.requests(count_cycle_rows(settings.batches), seed=0), settings.batches, signature, seed=0
    )


def make_predictor(file: OnnxFile) -> Predictor:
    """Return how ONNX Runtime answers requests from a file."""
    session = make_session(file.path, torch.get_num_threads())
    return lambda request: run(session, request)
