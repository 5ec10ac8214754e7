"""Store the results of benchmarks: lines from which an interrupted run continues, and sections of docs/results.md."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEAD = "# Results\n\nEach section names the script that wrote it; run the script again to update the section.\n"


def keep(path: Path, row: Mapping[str, Any]) -> None:
    """Append a measured row to the file, as a line of JSON."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def kept(path: Path) -> list[dict[str, Any]]:
    """Return the measured rows of the file, in the order of measurement."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def told_of_machine(where: Mapping[str, Any], threads: int) -> str:
    """Describe the machine of a measurement in a sentence; `where` is the result of `environment`."""
    versions = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
    counted = f"{threads} thread{'s' if threads > 1 else ''}"
    return f"On {where['cpu']}, {where['cores']} cores, {counted}; Python {where['python']}, {versions}."


def write_section(path: Path, title: str, script: str, text: str) -> None:
    """Write a section into the file: in place of the previous section of the same script, or at the end."""
    begin, end = f"<!-- {script} -->", f"<!-- end of {script} -->"
    section = f"{begin}\n## {title}\n\nWritten by `{script}`.\n\n{text.strip()}\n{end}\n"
    before = path.read_text() if path.exists() else HEAD
    known = re.compile(re.escape(begin) + ".*?" + re.escape(end) + "\n", re.DOTALL)
    whole = known.sub(lambda _: section, before) if known.search(before) else f"{before.rstrip()}\n\n{section}"
    path.write_text(whole)
