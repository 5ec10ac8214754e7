"""The README and the report page of a bundle, from its manifest and the names of its files."""

from collections.abc import Collection

from recprune_export.bundle.key_figures import describe_figures
from recprune_export.bundle.manifest.manifest import ENCODING, MODEL, REPORT, Manifest
from recprune_export.bundle.remeasure_latency import read_session_options
from recprune_export.bundle.servers.readme import render_readme
from recprune_export.bundle.servers.server_files import ServerFiles
from recprune_export.pipeline.build_manifest import describe_omissions
from recprune_export.report.bundle_page import render_bundle_report
from recprune_export.settings import LatencySettings


def render_pages(
    manifest: Manifest, files: Collection[str], servers: ServerFiles, latency: LatencySettings, *, report: bool
) -> dict[str, bytes]:
    """Return the README, and with `report` the report page, of a bundle that has these `files`."""
    weights = f"{MODEL}.data"
    readme = render_readme(
        manifest.name,
        manifest.signature,
        read_session_options(manifest),
        scores=manifest.scores,
        encoding=manifest.encoding,
        ignored=manifest.plan.get("fields", {}).get("removed", ()),
        shared_rows=manifest.plan.get("rows"),
        quantization=manifest.quantization,
        servers=servers,
        figures=describe_figures(manifest),
        omissions=describe_omissions(latency),
        report=report,
        weights=weights if weights in files else None,
        models=manifest.models,
        runtime=manifest.runtime,
        towers=manifest.towers,
    )
    pages = {"README.md": readme.encode()}
    if report:
        pages[REPORT] = render_bundle_report(manifest, encoded=ENCODING in files).encode()
    return pages
