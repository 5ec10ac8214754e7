"""What is served: the ONNX files, held to the program that they were made of."""

from dataclasses import dataclass
from pathlib import Path

import torch

from recprune_export.bundle.manifest.manifest import MODEL
from recprune_export.errors import ValidationFailed
from recprune_export.finetuning.task import (
    Answers,
    Task,
    answer,
)
from recprune_export.onnx.export import OnnxFile, Serving, export_onnx
from recprune_export.onnx.optimizer.rewrite import Limits
from recprune_export.onnx.runtime.session import make_session, run
from recprune_export.pipeline.float32_tolerance import within_rounding
from recprune_export.pipeline.prune import Pruned
from recprune_export.pipeline.quantize_export import FewerBits, in_fewer_bits
from recprune_export.program.program import Program
from recprune_export.program.random_requests import draw_request
from recprune_export.program.signature import Signature
from recprune_export.progress import doing
from recprune_export.settings import Settings
from recprune_export.validation.edge_requests import Request, as_taken, edge_requests, every_id, in_full
from recprune_export.validation.latency.request_cycle import Rotation, cut, rows_for
from recprune_export.validation.parity import Answer, ParityReport, Tolerances, check_parity

PARITY_ROWS = 512


@dataclass(frozen=True)
class Served:
    """The ONNX files of both models; `each_row` is `pruned` where every input has a row for each answer, as in a test set.

    `parity` is that of the pruned file in fp32; `fewer_bits` what became of it where that was asked for, and then it is `pruned`.
    """

    dense: OnnxFile
    pruned: OnnxFile
    each_row: OnnxFile
    parity: ParityReport
    fewer_bits: FewerBits | None

    def golden(self, program: Program, request: Request) -> Request:
        """Return the answer to a golden request: that of `program`, or of the file where it has fewer bits."""
        if self.fewer_bits is not None:
            return self.fewer_bits.golden(request)
        return answer(program, in_full(request, self.pruned.signature))

    @property
    def tolerances(self) -> Tolerances:
        """Within which another machine gives the golden answers."""
        stated = self.parity.tolerances
        return stated if self.fewer_bits is None else self.fewer_bits.tolerances(stated)


def export(program: Program, pruned: Pruned, settings: Settings, task: Task, folder: Path) -> Served:
    """Write both models to `folder`, compare the pruned one with PyTorch, then store it in fewer bits where that is asked for.

    Raises `ExportError`, and `ValidationFailed` where an answer differs.
    """
    with doing("Exporting to ONNX"):
        dense = export_onnx(program, folder / "dense.onnx", rewrites=())
        file = export_pruned(pruned, settings, folder / MODEL)
    with doing("Comparing answers with PyTorch's"):
        parity = validate_parity(pruned.program, file, task, ids=bool(pruned.plan.rows))
    requests = latency_requests(settings, task, file.signature)
    fewer_bits = in_fewer_bits(file, task, settings, requests, folder / "quantised")
    file = file if fewer_bits is None else fewer_bits.file
    each_row = file
    if settings.shared_inputs:  # rows of a test set share nothing; parity holds both files to the same program
        each_row = export_onnx(pruned.program, folder / "each_row.onnx")
    return Served(dense, file, each_row, parity, fewer_bits)


def export_pruned(pruned: Pruned, settings: Settings, path: Path) -> OnnxFile:
    """Write the ONNX file that is served; no rewrite may undo what was removed."""
    serving = Serving(settings.batches, settings.shared_inputs)
    return export_onnx(pruned.program, path, serving=serving, limits=Limits(pruned.target.tables, pruned.target.rest))


def validate_parity(program: Program, file: OnnxFile, task: Task, *, ids: bool = False) -> ParityReport:
    """Compare the ONNX file with the pruned program on test rows, drawn rows and edge rows, and on `ids` one by one.

    Where they differ, what rounding alone does to the program is measured, and allowed.

    Raises `ValidationFailed` with the first difference.
    """
    signature = file.signature
    requests = {
        "test rows": as_taken(task.requests(PARITY_ROWS, seed=0), signature),
        "drawn rows": draw_request(signature, PARITY_ROWS // 2, seed=1),
        **edge_requests(signature),
        **(every_id(signature) if ids else {}),
    }
    session = session_of(file)

    def by_program(request: Request) -> Answer:
        return answer(program, in_full(request, signature))

    report = check_parity(by_program, session, requests)
    if not report.passed:
        answers = {label: by_program(request) for label, request in requests.items()}
        full = {label: in_full(request, signature) for label, request in requests.items()}
        allowed = within_rounding(program, answers, full, report.tolerances)
        if allowed != report.tolerances:
            report = check_parity(by_program, session, requests, allowed)
    if not report.passed:
        raise ValidationFailed(
            f"The ONNX model does not give the pruned model's outputs, so nothing was written. {report.failures[0]}"
        )
    return report


def latency_requests(settings: Settings, task: Task, signature: Signature) -> dict[int, Rotation]:
    """Return different requests of test rows for each batch size; what is shared is the same in all rows of one."""
    return cut(task.requests(rows_for(settings.batches), seed=0), settings.batches, signature, seed=0)


def session_of(file: OnnxFile) -> Answers:
    """Return how ONNX Runtime answers requests from a file."""
    session = make_session(file.path, torch.get_num_threads())
    return lambda request: run(session, request)
