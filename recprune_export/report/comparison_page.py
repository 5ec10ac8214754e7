"""Page on two bundles side by side, rendered only from their manifests."""

from pathlib import Path

from recprune_export.bundle._verify import read_manifest, reject_invalid_sections
from recprune_export.bundle.archive.unpacking import open_bundle_path
from recprune_export.bundle.manifest.manifest import MANIFEST, Manifest
from recprune_export.errors import InputFileError
from recprune_export.report.comparison.bundle_pair import SIDES, BundlePair
from recprune_export.report.comparison.compared_bits import compare_bits
from recprune_export.report.comparison.compared_jobs import compare_jobs
from recprune_export.report.comparison.compared_latency import compare_latency, headline_speed
from recprune_export.report.comparison.compared_quality import compare_metrics, headline_quality
from recprune_export.report.comparison.compared_size import compare_size, headline_size
from recprune_export.report.comparison.compared_widths import compare_widths
from recprune_export.report.comparison.pair_figures import PairFigures, read_pair_figures
from recprune_export.report.page import Cell, Page, render_page

MAX_CHANGES = 3  # of the signature, which an error names


def render_saved_comparison(a: Path, b: Path) -> tuple[str, PairFigures]:
    """Return the page of two bundles on disk, packed or not, and their key figures.

    Raises `BundleError` for a path that is not a bundle, and `InputFileError` for bundles of different models.
    """
    with reject_invalid_sections(Path(f"{a / MANIFEST} or {b}")):
        pair = read_pair(a, b)
        return render_comparison(pair), read_pair_figures(pair)


def read_pair(a: Path, b: Path) -> BundlePair:
    """Read two bundles. Raises the errors of `render_saved_comparison`."""
    manifests = []
    for path in (a, b):
        with open_bundle_path(path) as folder:
            manifests.append(read_manifest(folder))
    pair = BundlePair(*manifests)
    changes = pair.signature_changes
    if changes:
        raise InputFileError(
            f"{a} and {b} are bundles of different models: {' '.join(changes[:MAX_CHANGES])} Give two bundles of one "
            "model, or of models with the same inputs and outputs."
        )
    return pair


def render_comparison(pair: BundlePair) -> str:
    """Return the page as HTML."""
    headlines = (headline_size(pair), headline_speed(pair), headline_quality(pair))
    sections = (
        compare_size(pair),
        compare_metrics(pair),
        compare_latency(pair),
        compare_widths(pair),
        compare_bits(pair),
        compare_jobs(pair),
    )
    page = Page(
        title=f"{pair.a.name} and {pair.b.name}",
        kicker="Two bundles side by side",
        facts=tuple(_describe(side, of) for side, of in zip(SIDES, (pair.a, pair.b), strict=True)),
        sections=tuple(section for section in sections if section is not None),
        headlines=tuple(headline for headline in headlines if headline is not None),
        footer=("All figures are from the manifests of the two bundles.",),
    )
    return render_page(page)


def _describe(side: str, manifest: Manifest) -> Cell:
    source = f", from {manifest.settings['model']}" if manifest.settings.get("model") else ""
    return f"{side} is {manifest.name}, written {manifest.created[:16].replace('T', ' ')} UTC{source}."
