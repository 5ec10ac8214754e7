"""Where and how it was made."""

import shlex

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.report.page import Cell, PageTable, Section, code_markup

_PLAIN = (("cpu", "Processor"), ("cores", "Cores that could be used"), ("system", "System"), ("python", "Python"))


def environment_section(manifest: Manifest) -> Section | None:
    """Return the command, the machine, the versions, and what the bundle was made of."""
    known, settings, made_of = manifest.environment, manifest.settings, manifest.provenance or {}
    rows: list[tuple[Cell, ...]] = [(said, str(known[key])) for key, said in _PLAIN if known.get(key) is not None]
    rows += [(name, version) for name, version in known.get("packages", {}).items() if version is not None]
    if settings.get("seed") is not None:
        rows.append(("Seed", str(settings["seed"])))
    if manifest.licence is not None:
        rows.append(("Licence", manifest.licence))
    for what, said_of in (("model", "Dense model, SHA-256"), ("data", "Rows, SHA-256")):
        if made_of.get(what):
            rows.append((said_of, made_of[what]["sha256"]))
    for whose, commit in made_of.get("commits", {}).items():
        if commit is not None:
            changed = ", with changes" if commit["changed"] else ""
            rows.append((f"Commit of {whose.replace('_', ' ')}", commit["commit"] + changed))
    if not rows:
        return None
    command = made_of.get("command") or settings.get("command")  # bundles of format 1 have it among the settings
    said = (code_markup(f"recprune-export {shlex.join(command)}"),) if command else ()
    table = PageTable("Machine and versions", ("", ""), tuple(rows), frozenset({0, 1}))
    return Section("environment", "Environment", said, tables=(table,))
