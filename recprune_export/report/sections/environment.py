"""Section on the machine, the versions and the inputs of a run."""

import shlex

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.report.page import Cell, PageTable, Section, code_markup

_PLAIN = (("cpu", "Processor"), ("cores", "Available cores"), ("system", "System"), ("python", "Python"))


def environment_section(manifest: Manifest) -> Section | None:
    """Return the command, the machine, the versions and the inputs; None if none of them is recorded."""
    environment, settings, provenance = manifest.environment, manifest.settings, manifest.provenance or {}
    rows: list[tuple[Cell, ...]] = [
        (label, str(environment[key])) for key, label in _PLAIN if environment.get(key) is not None
    ]
    rows += [(name, version) for name, version in environment.get("packages", {}).items() if version is not None]
    if settings.get("seed") is not None:
        rows.append(("Seed", str(settings["seed"])))
    if manifest.license is not None:
        rows.append(("License", manifest.license))
    for source, source_label in (("model", "Dense model, SHA-256"), ("data", "Rows, SHA-256")):
        if provenance.get(source):
            rows.append((source_label, provenance[source]["sha256"]))
    for repository, commit in provenance.get("commits", {}).items():
        if commit is not None:
            changed = ", with changes" if commit["changed"] else ""
            rows.append((f"Commit of {repository.replace('_', ' ')}", commit["commit"] + changed))
    if not rows:
        return None
    command = provenance.get("command") or settings.get("command")  # bundles of format 1 have it among the settings
    paragraphs = (code_markup(f"recprune-export {shlex.join(command)}"),) if command else ()
    table = PageTable("Machine and versions", ("name", "value"), tuple(rows), frozenset({0, 1}))
    gist = str(environment.get("cpu") or "")
    return Section("environment", "Environment", paragraphs, tables=(table,), gist=gist, is_open=False)
