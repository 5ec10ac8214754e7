"""`identify_data`: the path, size and hash of the files of rows, by which a manifest identifies them."""

import hashlib
from pathlib import Path
from typing import Any

from recprune_export.data.streaming.data_files import as_data_source, find_data_files, is_url
from recprune_export.provenance import file_identity


def identify_data(source: Path | str) -> dict[str, Any] | None:
    """Return the `file_identity` of a file or folder, or that of the list of the files that a glob matches.

    None for an address: its content would have to be read a second time. Time: one reading of the files.

    Raises `DataError` if a glob matches no file.
    """
    if is_url(source):
        return None
    path = Path(as_data_source(source))
    if path.exists():
        return file_identity(path)
    identities = [file_identity(Path(file)) for file in find_data_files(path)]
    listed = "".join(f"{of_file['sha256']}  {of_file['path']}\n" for of_file in identities)
    digest = hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()
    return {"path": str(path), "bytes": sum(of_file["bytes"] for of_file in identities), "sha256": digest}
