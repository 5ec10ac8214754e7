"""Section on exactness: the pruned program against the masked one, and the ONNX file against the pruned program."""

from collections.abc import Mapping
from typing import Any

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.report.numbers import format_count, format_scientific
from recprune_export.report.page import PageTable, Section, name_markup

MAX_ROWS = 100


def proof_section(manifest: Manifest) -> Section | None:
    """Return the parity errors by output and the soundness errors by stage; None if neither was recorded."""
    tables = []
    parity = manifest.parity
    if parity.get("outputs"):
        tables.append(_parity(parity))
    proofs = _soundness(manifest.plan)
    if proofs:
        tables.append(
            PageTable(
                "The pruned program against the original with the removed channels set to zero, before fine-tuning, in float64",
                ("", "largest error", "allowed"),
                tuple(proofs),
            )
        )
    if not tables:
        return None
    paragraphs = []
    if parity.get("tolerances"):
        tolerances = parity["tolerances"]
        paragraphs.append(
            f"A number passes if it differs by at most {tolerances['absolute']:g} + {tolerances['relative']:g} of its size. "
            "A bundle is written only if every number passes."
        )
    if parity.get("requests"):
        paragraphs.append(f"Compared were {format_count(parity['rows'])} rows: {', '.join(parity['requests'])}.")
    worst = max((output["max_absolute"] for output in parity.get("outputs", ())), default=None)
    gist = "" if worst is None else f"largest error {format_scientific(worst)}"
    return Section("parity", "Parity", tuple(paragraphs), tables=tuple(tables), gist=gist, is_open=False)


def _parity(parity: Mapping[str, Any]) -> PageTable:
    worst = sorted(parity["outputs"], key=lambda output: -output["max_absolute"])
    has_not_finite = any(output.get("not_finite") for output in worst)
    rows = tuple(
        (
            name_markup(output["name"]),
            output["dtype"],
            format_scientific(output["max_absolute"]),
            format_scientific(output["max_relative"]),
            output["worst"],
            *((format_count(output.get("not_finite", 0)),) if has_not_finite else ()),
        )
        for output in worst[:MAX_ROWS]
    )
    title = "model.onnx in ONNX Runtime against the pruned program in PyTorch"
    if len(worst) > MAX_ROWS:
        title += f", the {MAX_ROWS} outputs with the largest errors of {len(worst):,}"
    headings = (
        "output",
        "dtype",
        "largest error",
        "relative",
        "request",
        *(("NaN or infinite in both",) if has_not_finite else ()),
    )
    return PageTable(title, headings, rows, frozenset({0, 1, 4}))


def _soundness(plan: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    stage: Mapping[str, Any] | None = plan
    while stage and stage.get("soundness"):
        proof = stage["soundness"]
        rows.append(
            (f"stage {len(rows) + 1}", format_scientific(proof["error"]), format_scientific(proof["tolerance"]))
        )
        stage = stage.get("then")
    return rows if len(rows) != 1 else [("error", *rows[0][1:])]
