"""Gates on the ONNX files of two bundles that are made from their models: signature and latency of each."""

from collections.abc import Sequence

from recprune_export.data.npz import read_npz
from recprune_export.error_text import first_line
from recprune_export.errors import BundleError
from recprune_export.evidence import Verdict
from recprune_export.gate.artifact import Artifact, DerivedFile
from recprune_export.gate.compatibility import find_breaking_changes
from recprune_export.gate.findings import Finding
from recprune_export.gate.latency.paired_latency import collect_samples, compare_latency, make_sampler
from recprune_export.gate.limits import Limits
from recprune_export.onnx.runtime.session import make_session, run


def compare_derived_files(
    new: Artifact,
    base: Artifact,
    limits: Limits,
    batches: Sequence[int],
    threads: int,
    time_limit: float,
    seed: int = 0,
) -> list[Finding]:
    """Return findings on each ONNX file of BASE next to its model; none for plain ONNX files.

    Times are measured on the golden rows of BASE, because raw values cannot be sampled from a signature. Raises `BundleError` if a file
    fails on them.
    """
    findings = []
    for name, old in base.derived.items():
        file = new.derived.get(name)
        changes = (
            ("NEW does not contain this file.",)
            if file is None
            else find_breaking_changes(file.signature, old.signature)
        )
        if not limits.is_off("signature"):
            findings.append(_judge_signature(name, changes))
        if file is None or changes or limits.is_off("latency"):
            continue
        for artifact, of in ((new, file), (base, old)):
            _check_answers(artifact, of, old)
        tolerance = limits.limit_for("latency")
        sampler = make_sampler(file, old, old.signature, threads, seed, old.rows)
        evidence = collect_samples(sampler, batches, tolerance, time_limit)
        findings += compare_latency(evidence, tolerance, name)
    return findings


def _judge_signature(name: str, changes: Sequence[str]) -> Finding:
    gate, limit = f"signature of {name}", "requests and outputs of BASE"
    if changes:
        return Finding(gate, Verdict.FAILS, " ".join(changes), limit=limit)
    return Finding(gate, Verdict.HOLDS, "NEW accepts the requests of BASE and returns the same outputs.", limit=limit)


def _check_answers(artifact: Artifact, file: DerivedFile, base: DerivedFile) -> None:
    try:
        run(make_session(file.model, 1), read_npz(base.rows))
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise BundleError(
            f"{artifact.name} fails for the golden requests of {file.model.name}: {first_line(error)}"
        ) from error
