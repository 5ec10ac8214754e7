"""Report page of a bundle: size, latency, quality and their evidence, rendered only from the manifest."""

from pathlib import Path

from recprune_export.bundle._verify import read_manifest, reject_invalid_sections
from recprune_export.bundle.archive.unpacking import open_bundle_path
from recprune_export.bundle.manifest.manifest import ENCODING, Manifest
from recprune_export.report.page import Cell, Page, code_markup, prose_markup, render_page
from recprune_export.report.sections.calling import calling_section
from recprune_export.report.sections.derived_models import derived_models_section
from recprune_export.report.sections.environment import environment_section
from recprune_export.report.sections.frozen import frozen_section
from recprune_export.report.sections.latency import latency_section, speed_headline
from recprune_export.report.sections.proof import proof_section
from recprune_export.report.sections.quality import quality_headline, quality_section
from recprune_export.report.sections.quantization import quantization_section
from recprune_export.report.sections.rewrites import rewrites_section
from recprune_export.report.sections.size import size_headline, size_section
from recprune_export.report.sections.storage import storage_section
from recprune_export.report.sections.tradeoff import search_section, tradeoff_section
from recprune_export.report.sections.tuning import tuning_section
from recprune_export.report.sections.widths import widths_section
from recprune_export.report.sweep_file import SweepFile, find_sweep


def render_bundle_report(manifest: Manifest, *, encoded: bool, sweep: SweepFile | None = None) -> str:
    """Return the page as HTML; `encoded`: the bundle contains `encoding.json`; `sweep`: trials for the Pareto curve."""
    headlines = (size_headline(manifest), speed_headline(manifest), quality_headline(manifest))
    sections = (
        size_section(manifest),
        storage_section(manifest),
        quality_section(manifest),
        tuning_section(manifest),
        search_section(manifest),
        None if sweep is None else tradeoff_section(manifest, sweep),
        latency_section(manifest),
        derived_models_section(manifest),
        widths_section(manifest),
        quantization_section(manifest),
        rewrites_section(manifest),
        frozen_section(manifest),
        proof_section(manifest),
        calling_section(manifest, encoded=encoded),
        environment_section(manifest),
    )
    page = Page(
        title=manifest.name,
        kicker="A compressed recommender",
        facts=_facts(manifest),
        sections=tuple(section for section in sections if section is not None),
        headlines=tuple(headline for headline in headlines if headline is not None),
        notes=tuple(map(prose_markup, manifest.notes)),
        footer=(
            "All numbers are from manifest.json, which contains more digits. ",
            code_markup("recprune-export verify ."),
            " checks the files of the bundle and its outputs on your machine.",
        ),
    )
    return render_page(page)


def render_saved_bundle_report(bundle: Path, sweep: Path | None = None) -> str:
    """Return the page of a bundle on disk, packed or not, with the given sweep or one found next to the bundle.

    Raises `BundleError`, and `InputFileError` for the sweep.
    """
    with open_bundle_path(bundle) as folder:
        manifest = read_manifest(folder)
    sweep_file = find_sweep(manifest, bundle, sweep)
    with reject_invalid_sections(bundle):
        return render_bundle_report(manifest, encoded=ENCODING in manifest.files, sweep=sweep_file)


def _facts(manifest: Manifest) -> tuple[Cell, ...]:
    settings = manifest.settings
    facts = [f"Written {manifest.created[:16].replace('T', ' ')} UTC"]
    if settings.get("model"):
        facts.append(f"from {settings['model']}")
    facts.append(
        f"fine-tuned and measured on {settings['data']}" if settings.get("data") else "fine-tuned on random requests"
    )
    return (", ".join(facts) + ".",)
