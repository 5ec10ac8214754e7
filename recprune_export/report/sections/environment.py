"""Where and how it was made."""

import shlex

from recprune_export.bundle.manifest import Manifest
from recprune_export.report.page import Cell, Section, Table, code

_PLAIN = (("cpu", "Processor"), ("cores", "Cores that could be used"), ("system", "System"), ("python", "Python"))


def environment_section(manifest: Manifest) -> Section | None:
    """Return the command, the machine and the versions."""
    known, settings = manifest.environment, manifest.settings
    rows: list[tuple[Cell, ...]] = [(said, str(known[key])) for key, said in _PLAIN if known.get(key) is not None]
    rows += [(name, version) for name, version in known.get("packages", {}).items() if version is not None]
    if settings.get("seed") is not None:
        rows.append(("Seed", str(settings["seed"])))
    if not rows:
        return None
    command = settings.get("command")
    said = (code(f"recprune-export {shlex.join(command)}"),) if command else ()
    table = Table("Machine and versions", ("", ""), tuple(rows), frozenset({0, 1}))
    return Section("environment", "Environment", said, tables=(table,))
