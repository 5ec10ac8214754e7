"""Section on how to call the model."""

from typing import Any

from recprune_export.bundle.manifest.manifest import ENCODING, MODEL, Manifest
from recprune_export.bundle.servers.readme import (
    describe_id_ranges,
    describe_input_rules,
    describe_outputs,
    render_calling_code,
)
from recprune_export.onnx.runtime.runtime_requirements import RuntimeRequirements
from recprune_export.onnx.runtime.session import DEFAULT_OPTIONS, SessionOptions
from recprune_export.program.requests.jagged_inputs import describe_jagged_inputs, make_file_signature
from recprune_export.program.signature import Signature
from recprune_export.report.page import Cell, PageTable, Section, name_markup, prose_markup

MAX_ROWS = 180


def calling_section(manifest: Manifest, *, encoded: bool) -> Section:
    """Return code that calls the model, with its inputs and outputs; `encoded`: the bundle contains its encoding."""
    options = manifest.session.get("options")
    session = SessionOptions.from_dict(options) if options else DEFAULT_OPTIONS
    signature = Signature.from_dict(manifest.signature)
    inputs, outputs = make_file_signature(signature).to_dict()["inputs"], manifest.signature["outputs"]
    rows = [("input", tensor) for tensor in inputs] + [("output", tensor) for tensor in outputs]
    listed = "" if len(rows) <= MAX_ROWS else f", the first {MAX_ROWS} of {len(rows):,}; all are in manifest.json"
    table = PageTable(
        f"Inputs and outputs{listed}",
        ("name", "kind", "dtype", "shape", "ids"),
        tuple(_row(kind, tensor) for kind, tensor in rows[:MAX_ROWS]),
        frozenset(range(5)),
    )
    meanings = describe_outputs(manifest.signature, manifest.scores)
    after = [f"'{name}' is {text}." for name, text in list(meanings.items())[:MAX_ROWS]]
    after.append("The batch may have any size.")
    shared = [tensor["name"] for tensor in inputs if tensor.get("shared")]
    if shared:
        after.append(f"One row of {', '.join(shared)} applies to all candidates of a request.")
    jagged = describe_jagged_inputs(signature)
    if jagged:
        after.append(jagged)
    rules = describe_input_rules(manifest.signature["inputs"], encoding=encoded).strip()
    if rules:
        after.append(rules)
    if encoded:
        after.append(f"{ENCODING} encodes raw values into these inputs.")
    needs = "requires only ONNX Runtime"
    if manifest.runtime is not None:
        needs = RuntimeRequirements.from_dict(manifest.runtime).describe()
    requirements = (f"{MODEL} {needs}.",)
    return Section(
        "calling",
        "How to call it",
        requirements,
        tables=(table,),
        code=render_calling_code(session),
        after=(prose_markup(" ".join(after)),),
        gist=f"{len(inputs)} {'input' if len(inputs) == 1 else 'inputs'}",
        is_open=False,
    )


def _row(kind: str, tensor: dict[str, Any]) -> tuple[Cell, ...]:
    shape = ", ".join(str(size) for size in tensor["shape"])
    return name_markup(tensor["name"]), kind, tensor["dtype"], f"({shape})", describe_id_ranges(tensor.get("ids", ()))
