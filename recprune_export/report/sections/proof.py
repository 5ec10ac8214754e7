"""How exact: the pruned program against the masked one, and the ONNX file against the pruned program."""

from collections.abc import Mapping
from typing import Any

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.report.numbers import format_count, format_scientific
from recprune_export.report.page import PageTable, Section, name_markup

LISTED = 100


def proof_section(manifest: Manifest) -> Section | None:
    """Return the errors of parity by output, and of soundness by stage."""
    tables = []
    parity = manifest.parity
    if parity.get("outputs"):
        tables.append(_parity(parity))
    proofs = _soundness(manifest.plan)
    if proofs:
        tables.append(
            PageTable(
                "The pruned program against the original with the removed channels set to zero, before tuning, in float64",
                ("", "largest error", "allowed"),
                tuple(proofs),
            )
        )
    if not tables:
        return None
    said = []
    if parity.get("tolerances"):
        tolerances = parity["tolerances"]
        said.append(
            f"A number passes where it differs by at most {tolerances['absolute']:g} + {tolerances['relative']:g} of its size. "
            "A bundle is written only where every number passes."
        )
    if parity.get("requests"):
        said.append(f"Compared were {format_count(parity['rows'])} rows: {', '.join(parity['requests'])}.")
    return Section("parity", "Parity", tuple(said), tables=tuple(tables))


def _parity(parity: Mapping[str, Any]) -> PageTable:
    worst = sorted(parity["outputs"], key=lambda output: -output["max_absolute"])
    odd = any(output.get("not_finite") for output in worst)
    rows = tuple(
        (
            name_markup(output["name"]),
            output["dtype"],
            format_scientific(output["max_absolute"]),
            format_scientific(output["max_relative"]),
            output["worst"],
            *((format_count(output.get("not_finite", 0)),) if odd else ()),
        )
        for output in worst[:LISTED]
    )
    title = "model.onnx in ONNX Runtime against the pruned program in PyTorch"
    if len(worst) > LISTED:
        title += f", the {LISTED} outputs with the largest errors of {len(worst):,}"
    headings = (
        "output",
        "dtype",
        "largest error",
        "relative",
        "found in",
        *(("NaN or infinite in both",) if odd else ()),
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
