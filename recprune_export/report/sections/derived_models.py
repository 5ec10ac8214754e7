"""Section on the ONNX files that are made from the model: their purpose, size, time and load time."""

from recprune_export.bundle.manifest.manifest import MODEL, Manifest
from recprune_export.report.numbers import format_bytes
from recprune_export.report.page import PageTable, Section


def derived_models_section(manifest: Manifest) -> Section | None:
    """Return a row for each file and batch size; None for a bundle with one ONNX file."""
    if not manifest.models:
        return None
    rows = []
    for name, entry in manifest.models.items():
        latency = entry["latency"]
        size = sum(of.bytes for file, of in manifest.files.items() if file in (name, f"{name}.data"))
        load = f"{entry['load_milliseconds'][name]:.3g}"
        for batch, times in latency["milliseconds"].items():
            ratio = latency["ratios"][batch][f"{name} / {MODEL}"]
            interval = f"{ratio['estimate']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
            rows.append((name, format_bytes(size), load, batch, f"{times[name]['p50']:.3g}", interval))
    sentences = tuple(f"{name} {entry['purpose']}." for name, entry in manifest.models.items())
    headings = ("file", "size", "ms to load", "batch size", "ms", f"times {MODEL}")
    return Section(
        "files",
        "Other ONNX files",
        (*sentences, f"Each reproduces the outputs of {MODEL} and was timed together with it on the same rows."),
        tables=(
            PageTable("Medians, interleaved in one process; load times in fresh processes", headings, tuple(rows)),
        ),
        gist=f"{len(manifest.models)} {'file' if len(manifest.models) == 1 else 'files'}",
        is_open=False,
    )
