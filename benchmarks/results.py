"""What benchmarks leave behind: lines from which an interrupted run goes on, and sections of docs/results.md."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEAD = "# Results\n\nEach section was written by the script that it names; run it again to renew it.\n"


def keep(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line to what was measured."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def kept(path: Path) -> list[dict[str, Any]]:
    """Return what was measured, in the order in which it was."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def told_of_machine(where: Mapping[str, Any], threads: int) -> str:
    """Say in a sentence where it was measured; `where` is what `environment` returns."""
    versions = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
    counted = f"{threads} thread{'s' if threads > 1 else ''}"
    return f"On {where['cpu']}, {where['cores']} cores, {counted}; Python {where['python']}, {versions}."


def write_section(path: Path, title: str, script: str, text: str) -> None:
    """Put a section into the file, in the place of what the same script wrote before, or at the end."""
    begin, end = f"<!-- {script} -->", f"<!-- end of {script} -->"
    section = f"{begin}\n## {title}\n\nWritten by `{script}`.\n\n{text.strip()}\n{end}\n"
    before = path.read_text() if path.exists() else HEAD
    known = re.compile(re.escape(begin) + ".*?" + re.escape(end) + "\n", re.DOTALL)
    whole = known.sub(lambda _: section, before) if known.search(before) else f"{before.rstrip()}\n\n{section}"
    path.write_text(whole)
