"""Run all gates on two artifacts, the fast ones first."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from recprune_export.codec import ToDictMixin, json_name
from recprune_export.environment import environment
from recprune_export.errors import BundleError, ExportError, ModelFileError, Undecided, ValidationFailed
from recprune_export.evidence import Verdict, combine_verdicts
from recprune_export.gate.artifact import Artifact, open_artifact
from recprune_export.gate.compatibility import compare_signatures, make_common_signature
from recprune_export.gate.cost_rules import collect_footprints, compare_costs
from recprune_export.gate.derived_files import compare_derived_files
from recprune_export.gate.findings import Finding, make_skipped_finding
from recprune_export.gate.gate_constants import TIME_LIMIT
from recprune_export.gate.latency.paired_latency import Evidence, collect_samples, compare_latency, make_sampler
from recprune_export.gate.latency.sequential_sampling import BASE, NEW
from recprune_export.gate.limits import Limits
from recprune_export.gate.quality_rules import compare_paired_quality, compare_quality
from recprune_export.gate.regression_rules import compare_counts
from recprune_export.metrics._paired_change import MetricChange
from recprune_export.onnx.runtime.session import describe_runtime_error, make_session, run
from recprune_export.program.signature import Signature
from recprune_export.validation.edge_requests import make_edge_requests
from recprune_export.validation.latency.footprint import measure_footprints

BATCHES = (1, 32, 256)
DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Check(ToDictMixin):
    """Findings of all gates. `undecided`: the verdict to use for inconclusive gates."""

    ENCODED = ("new", "base", "verdict", "findings", "latency", "threads", "seconds", "environment")

    new: str
    base: str
    findings: tuple[Finding, ...] = field(metadata=json_name("gates"))
    latency: Mapping[int, Evidence]
    threads: int
    seconds: float
    undecided: Verdict = Verdict.UNDECIDED
    environment: Mapping[str, Any] = field(default_factory=environment)

    @property
    def verdict(self) -> Verdict:
        """Return the overall verdict."""
        return combine_verdicts((finding.verdict for finding in self.findings), self.undecided)

    def failed(self) -> tuple[Finding, ...]:
        """Return the findings against NEW; undecided gates are included only if they count as failures."""
        failures = {Verdict.FAILS} | ({Verdict.UNDECIDED} if self.undecided is Verdict.FAILS else set())
        return tuple(finding for finding in self.findings if finding.verdict in failures)

    def raise_verdict(self) -> None:
        """Raise `ValidationFailed` for a regression and `Undecided` for an inconclusive verdict; the message lists the gates."""
        if self.verdict is Verdict.FAILS:
            gates = " ".join(f"[{finding.gate}] {finding.reason}" for finding in self.failed())
            raise ValidationFailed(f"{self.new} is worse than {self.base}: {gates}")
        if self.verdict is Verdict.UNDECIDED:
            undecided = [f.gate for f in self.findings if f.verdict is Verdict.UNDECIDED]
            remedies = ["--data with more rows"] if any(gate.startswith("quality") for gate in undecided) else []
            if not all(gate.startswith("quality") for gate in undecided):
                remedies += ["a longer --time-limit", "a less busy machine"]
            raise Undecided(
                f"The comparison of {self.new} with {self.base} is inconclusive ({', '.join(undecided)}): use "
                f"{', or '.join(remedies)}, or set --undecided to pass or fail."
            )


def check(
    new: Path,
    base: Path,
    limits: Limits = DEFAULT_LIMITS,
    *,
    batches: Sequence[int] = BATCHES,
    threads: int = 1,
    time_limit: float = TIME_LIMIT,
    undecided: Verdict = Verdict.UNDECIDED,
    quality: Mapping[str, MetricChange] | None = None,
    seed: int = 0,
) -> Check:
    """Compare two artifacts: bundles or plain ONNX files; gates without the needed information are skipped.

    `quality`: by metric, the change from BASE to NEW on the same rows; without it, the recorded metrics are compared.
    `time_limit`: seconds for the latency gate of each ONNX file, and the same for load time and peak memory. Raises `BundleError` and
    `ModelFileError` for an invalid file, or a plain file whose valid requests cannot be derived from the graph.
    """
    start = time.perf_counter()
    new_artifact, base_artifact = open_artifact(new), open_artifact(base)
    findings = [] if limits.is_off("signature") else [compare_signatures(new_artifact, base_artifact)]
    if quality is None:
        findings += compare_quality(new_artifact, base_artifact, limits)
    else:
        findings += compare_paired_quality(quality, limits)
    findings += compare_counts(new_artifact, base_artifact, limits)
    evidence: dict[int, Evidence] = {}
    signature = make_common_signature(new_artifact.signature, base_artifact.signature)
    if signature is None:
        reason = "No request is valid for both artifacts, see the signature."
        findings += [make_skipped_finding(gate, reason) for gate in ("load time", "peak memory", "latency")]
    else:
        for artifact in (new_artifact, base_artifact):
            check_answers(artifact, signature)
        models = {
            n: (a.model.absolute(), replace(a.options, threads=threads))
            for n, a in ((NEW, new_artifact), (BASE, base_artifact))
        }
        footprints = collect_footprints(
            partial(measure_footprints, models, signature, max(batches)), NEW, BASE, limits, time_limit
        )
        findings += compare_costs(footprints, NEW, BASE, limits)
        if limits.is_off("latency"):
            findings.append(make_skipped_finding("latency", "Turned off."))
        else:
            tolerance = limits.limit_for("latency")
            sampler = make_sampler(new_artifact, base_artifact, signature, threads, seed)
            evidence = collect_samples(sampler, batches, tolerance, time_limit)
            findings += compare_latency(evidence, tolerance)
    findings += compare_derived_files(new_artifact, base_artifact, limits, batches, threads, time_limit, seed)
    seconds = time.perf_counter() - start
    return Check(new_artifact.name, base_artifact.name, tuple(findings), evidence, threads, seconds, undecided)


def check_answers(artifact: Artifact, signature: Signature) -> None:
    """Run a model on requests at the edges of the signature.

    Raises `ModelFileError`, or `BundleError` for a bundle, if the model fails: its latency would be that of an error.
    """
    try:
        session = make_session(artifact.model, options=artifact.options)
    except ExportError as error:
        raise (BundleError if artifact.is_bundle else ModelFileError)(str(error)) from error
    for label, request in make_edge_requests(signature).items():
        try:
            run(session, request)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            first = describe_runtime_error(error)
            if artifact.is_bundle:
                raise BundleError(
                    f"{artifact.name} fails for '{label}', a request of its own signature: {first}"
                ) from error
            raise ModelFileError(
                f"{artifact.name} fails for a request that was derived from its graph ({first[:160]}): "
                "compare bundles, whose signature specifies valid requests."
            ) from error
