"""Provenance of a bundle: identities of its input files, and commits of git repositories."""

import hashlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_GIT = ("git", "-c", "core.fsmonitor=false")  # do not run a command from the configuration of the repository


def file_identity(path: Path) -> dict[str, Any]:
    """Return the path, the size in bytes and the SHA-256 of a file, by which it can be identified later.

    For a folder, they refer to all of its files: the hash is that of the list of their hashes and names, in the format of `sha256sum`.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        listed = "".join(f"{_hash_file(file)}  {file.relative_to(path).as_posix()}\n" for file in files)
        digest = hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()
        return {"path": str(path), "bytes": sum(file.stat().st_size for file in files), "sha256": digest}
    return {"path": str(path), "bytes": path.stat().st_size, "sha256": _hash_file(path)}


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_commit(directory: Path) -> dict[str, Any] | None:
    """Return the commit checked out in the repository of `directory`, and whether tracked files differ from it.

    None without a repository, a commit or git.
    """
    commit = _run_git(directory, "rev-parse", "--verify", "HEAD")
    changes = _run_git(directory, "status", "--porcelain", "--untracked-files=no")
    if not commit or changes is None:
        return None
    return {"commit": commit, "changed": bool(changes)}


def find_package_commit() -> dict[str, Any] | None:
    """Return the commit of recprune-export if it runs from its own repository.

    A copy installed inside another repository is not tracked there.
    """
    package = Path(__file__).parent
    return find_commit(package) if _run_git(package, "ls-files", "--error-unmatch", "__init__.py") else None


def provenance(
    *,
    command: Sequence[str],
    model: Mapping[str, Any] | None,
    data: Mapping[str, Any] | None,
    seeds: Mapping[str, int],
    baseline: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the section `provenance` of a manifest; `model` and `data` are the `file_identity` of each input file, if any.

    `baseline` names the bundle whose plan was applied to other weights, if any.
    """
    return {
        "command": list(command),
        "model": _without_path(model),
        "data": _without_path(data),
        "seeds": dict(seeds),
        **({} if baseline is None else {"baseline": dict(baseline)}),
        "commits": {"recprune-export": find_package_commit(), "working_directory": find_commit(Path.cwd())},
    }


def _without_path(identity: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return an identity with the file name instead of the path, which depends on the machine."""
    if identity is None:
        return None
    return {"name": Path(identity["path"]).name, "bytes": identity["bytes"], "sha256": identity["sha256"]}


def _run_git(directory: Path, *arguments: str) -> str | None:
    """Return the output of a git command; None if it fails."""
    try:
        process = subprocess.run(
            [*_GIT, "-C", str(directory), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=5.0,  # a repository on a slow disk must not delay the job
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return None
    return process.stdout.strip()
