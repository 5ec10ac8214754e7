"""Sections of docs/results.md, each written by the benchmark that it is named after."""

import re
from pathlib import Path

HEAD = "# Results\n\nEach section was written by the script that it names; run it again to renew it.\n"


def write_section(path: Path, title: str, script: str, text: str) -> None:
    """Put a section into the file, in the place of what the same script wrote before, or at the end."""
    begin, end = f"<!-- {script} -->", f"<!-- end of {script} -->"
    section = f"{begin}\n## {title}\n\nWritten by `{script}`.\n\n{text.strip()}\n{end}\n"
    before = path.read_text() if path.exists() else HEAD
    known = re.compile(re.escape(begin) + ".*?" + re.escape(end) + "\n", re.DOTALL)
    whole = known.sub(lambda _: section, before) if known.search(before) else f"{before.rstrip()}\n\n{section}"
    path.write_text(whole)
