"""Packages and megabytes of each distribution with all its requirements, as installed in this environment.

    python benchmarks/bench_install_size.py

Reads the requirements of `pyproject.toml` and `runtime/pyproject.toml`, follows those of the installed packages, and counts the
bytes of their files, including bytecode that pip compiles. Prints the table of "Install for serving" in docs/guide.md, and JSON as the
last line. PyTorch counts as it is installed, for CPU or CUDA.
"""

import json
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from recprune_export.environment import environment

ROOT = Path(__file__).parent.parent


def read_requirements(project: Path, *extras: str) -> list[Requirement]:
    """Return what a project requires, with some of its extras."""
    values = tomllib.loads(project.read_text())["project"]
    lines = [*values["dependencies"], *(line for extra in extras for line in values["optional-dependencies"][extra])]
    return [Requirement(line) for line in lines]


def find_packages(wanted: list[Requirement]) -> dict[str, int]:
    """Return the bytes of the files of each installed package that is required, directly or not."""
    found: dict[str, int] = {}
    waiting = list(wanted)
    while waiting:
        requirement = waiting.pop()
        name = requirement.name.lower().replace("_", "-")
        if name in found:
            continue
        try:
            installed = distribution(name)
        except PackageNotFoundError:  # of another platform
            continue
        files = [Path(str(installed.locate_file(file))) for file in installed.files or ()]
        found[name] = sum(file.stat().st_size for file in files if file.is_file())
        for line in installed.requires or ():
            inner = Requirement(line)
            if inner.marker is None or inner.marker.evaluate({"extra": ""}):
                waiting.append(inner)
    return found


def main() -> None:
    full, runtime = ROOT / "pyproject.toml", ROOT / "runtime" / "pyproject.toml"
    kinds = {
        "recprune-export": read_requirements(full),
        "recprune-export-runtime[predict]": read_requirements(runtime, "predict"),
        "recprune-export-runtime": read_requirements(runtime),
    }
    results = {}
    for name, wanted in kinds.items():
        packages = find_packages(wanted)
        results[name] = {"packages": len(packages), "megabytes": sum(packages.values()) / 1e6}
        print(f"{name:<36} {len(packages):>3} packages {results[name]['megabytes']:>8.0f} MB")
    print(json.dumps({"benchmark": "install size", "environment": environment(), "results": results}))


if __name__ == "__main__":
    main()
