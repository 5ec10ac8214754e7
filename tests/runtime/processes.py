"""The runtime in processes of their own: as its wheel holds it, or as an environment has it installed."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib.metadata import packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "runtime" / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = tuple(PROJECT["project"]["optional-dependencies"])

# Python imports a module of this name at its start, in each process that has its folder on the path.
GUARD = """
import sys

ALLOWED = {allowed!r}


class OtherPackagesAreMissing:
    def find_spec(self, name, path=None, target=None):
        first = name.partition(".")[0]
        if first not in ALLOWED and first not in sys.stdlib_module_names and not first.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, OtherPackagesAreMissing())
"""


@dataclass(frozen=True)
class Runtime:
    """An interpreter and the variables with which it runs the runtime."""

    python: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a command as a user does."""
        variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        return subprocess.run(
            [self.python, "-m", "recprune_export", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env={**variables, "PYTHONSAFEPATH": "1", **self.environment},  # the current folder may be the checkout
        )

    def output(self, *arguments: object) -> str:
        """Return what a command prints; fail if it does not end with 0."""
        done = self.run(*arguments)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout

    def json(self, *arguments: object) -> dict:
        return json.loads(self.output(*arguments, "--json"))

    def refusal(self, *arguments: object) -> str:
        """Return the one line of a command that is refused as a wrong usage."""
        done = self.run(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), (arguments, done.stdout, done.stderr)
        *_stages, line = done.stderr.splitlines()
        return line


def copy_runtime(folder: Path, extras: Collection[str] = EXTRAS, without: Collection[str] = ()) -> Runtime:
    """Copy the files of the wheel into `folder`, where only what it requires, less `without`, can be imported."""
    for package in PROJECT["tool"]["setuptools"]["packages"]:
        source, target = ROOT / package.replace(".", "/"), folder / package.replace(".", "/")
        target.mkdir(parents=True)
        for file in (*source.glob("*.py"), *source.glob("*.pyi")):
            shutil.copy(file, target)
    shutil.copytree(ROOT / "recprune_export/report/templates", folder / "recprune_export/report/templates")
    allowed = sorted((find_modules(list_requirements(extras)) | {"recprune_export"}) - set(without))
    (folder / "sitecustomize.py").write_text(GUARD.format(allowed=allowed))
    return Runtime(sys.executable, {"PYTHONPATH": str(folder)})


def list_requirements(extras: Collection[str]) -> list[Requirement]:
    """Return what the runtime requires with these extras."""
    project = PROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return [Requirement(line) for line in lines]


def find_modules(requirements: Collection[Requirement]) -> set[str]:
    """Return the top modules of packages and of all that they require, in the environment of the tests."""
    distributions, pending = set(), [requirement.name for requirement in requirements]
    while pending:
        name = normalize(pending.pop())
        if name not in distributions:
            distributions.add(name)
            needed = [Requirement(line) for line in requires(name) or []]
            pending += [r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return {module for module, owners in packages_distributions().items() if distributions & {*map(normalize, owners)}}


def normalize(name: str) -> str:
    return name.lower().replace("_", "-")
