"""The installed distribution: the full package or `recprune-export-runtime`, and advice for packages to install.

Both contain the import package `recprune_export`; the runtime lacks the parts that create bundles, and PyTorch. No other package is
imported here, since any may be missing.
"""

import sys
from pathlib import Path

from recprune_export.errors import UsageError

WHOLE, RUNTIME = "recprune-export", "recprune-export-runtime"
PACKAGE = Path(__file__).parent
# Extras of both distributions, by the package that they install.
EXTRAS = {"zstandard": "pack", "cryptography": "sign"}
RUNTIME_EXTRAS = {**EXTRAS, "polars": "predict"}


def is_whole(package: Path = PACKAGE) -> bool:
    """Return whether this is the full package: the runtime lacks the main job."""
    return (package / "pipeline").is_dir()


def find_distribution(package: Path = PACKAGE) -> str:
    """Return the name of the distribution to which these files belong."""
    return WHOLE if is_whole(package) else RUNTIME


def require_whole_tool(user: str, package: Path = PACKAGE) -> None:
    """Raise `UsageError` if this is the runtime: `user`, a command or an option, requires the full package."""
    if not is_whole(package):
        raise UsageError(f"{user} requires the full package, but this is {RUNTIME}: pip install {WHOLE}")


def install_command(module: str, package: Path = PACKAGE) -> str:
    """Return the command that installs a `module` which is part of this distribution or of one of its extras.

    >>> install_command("zstandard"), install_command("torch")
    ("pip install 'recprune-export[pack]'", 'pip install recprune-export')
    """
    extras = EXTRAS if is_whole(package) else RUNTIME_EXTRAS
    name = find_distribution(package)
    return f"pip install '{name}[{extras[module]}]'" if module in extras else f"pip install {name}"


def describe_missing_module(error: ModuleNotFoundError, user: str, package: Path = PACKAGE) -> str | None:
    """Return the sentence for a package that `user` needs and that is not installed or too old; None for other errors.

    >>> describe_missing_module(ModuleNotFoundError(name="torch"), "train")
    'train requires torch: pip install recprune-export'
    >>> describe_missing_module(ModuleNotFoundError(name="click.exceptions"), "train")
    'train requires another release of click: pip install --upgrade recprune-export'
    """
    module, _, submodule = (error.name or "").partition(".")
    if not module or module in sys.stdlib_module_names:
        return None
    if module == PACKAGE.name:
        return None if is_whole(package) else f"{user} requires the full package: pip install {WHOLE}"
    command = install_command(module, package)
    if submodule:  # the package itself was imported
        return f"{user} requires another release of {module}: {command.replace('install', 'install --upgrade', 1)}"
    return f"{user} requires {module}: {command}"


def find_versions(package: Path = PACKAGE) -> dict[str, str]:
    """Return the versions of the distributions that are installed into the folder of this package, by their names."""
    return {
        name: path.name.removesuffix(".dist-info").rpartition("-")[2]
        for name in (WHOLE, RUNTIME)
        for path in package.parent.glob(f"{name.replace('-', '_')}-*.dist-info")
    }


def find_conflict(package: Path = PACKAGE) -> str | None:
    """Return the sentence for an environment in which the two distributions have overwritten or hidden each other.

    If the versions are equal, the common files are equal, which is not a conflict. The other cases mix releases, or leave one
    distribution without some of its files.
    """
    versions = find_versions(package)
    if len(versions) < 2 or (len(set(versions.values())) == 1 and is_whole(package)):
        return None
    stated = " and ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{stated} are installed into the same folder and overwrite each other's files: "
        f"pip uninstall -y {WHOLE} {RUNTIME}, then install the one that you need ({WHOLE} holds all of the other)."
    )
