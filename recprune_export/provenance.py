"""What a bundle was made of: files by their content, and commits of git repositories."""

import hashlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_SECONDS = 5.0  # a repository on a slow disk must not hold up the work
_GIT = ("git", "-c", "core.fsmonitor=false")  # what a repository's configuration would run is not run


def file_identity(path: Path) -> dict[str, Any]:
    """Return path as it was given, size in bytes and SHA-256 of a file: by these it is found and known again."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"path": str(path), "bytes": path.stat().st_size, "sha256": digest}


def find_commit(directory: Path) -> dict[str, Any] | None:
    """Return the commit that is checked out around `directory`, and whether tracked files differ from it.

    None where there is no repository, no commit yet, or no git.
    """
    commit = _git(directory, "rev-parse", "--verify", "HEAD")
    changes = _git(directory, "status", "--porcelain", "--untracked-files=no")
    if not commit or changes is None:
        return None
    return {"commit": commit, "changed": bool(changes)}


def find_package_commit() -> dict[str, Any] | None:
    """Return the commit of recprune-export, where it runs from a repository of its own.

    Installed into somebody else's repository it is not tracked there.
    """
    package = Path(__file__).parent
    return find_commit(package) if _git(package, "ls-files", "--error-unmatch", "__init__.py") else None


def provenance(
    *,
    command: Sequence[str],
    model: Mapping[str, Any] | None,
    data: Mapping[str, Any] | None,
    seeds: Mapping[str, int],
) -> dict[str, Any]:
    """Return the section `provenance` of a manifest; `model` and `data` are `file_identity` of what went in, if any."""
    return {
        "command": list(command),
        "model": _named(model),
        "data": _named(data),
        "seeds": dict(seeds),
        "commits": {"recprune-export": find_package_commit(), "working_directory": find_commit(Path.cwd())},
    }


def _named(identity: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Without the path, which says more of the machine than of the file."""
    if identity is None:
        return None
    return {"name": Path(identity["path"]).name, "bytes": identity["bytes"], "sha256": identity["sha256"]}


def _git(directory: Path, *arguments: str) -> str | None:
    """What git prints; None where it fails."""
    try:
        done = subprocess.run(
            [*_GIT, "-C", str(directory), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=_SECONDS,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return None
    return done.stdout.strip()
