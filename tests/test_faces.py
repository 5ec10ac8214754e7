"""Each package has a face: the names that the rest of the project imports from it."""

import ast
import importlib
from pathlib import Path

import pytest

import recprune_export

PACKAGE = Path(recprune_export.__file__).parent
PACKAGES = sorted(
    ".".join(("recprune_export", *path.parent.relative_to(PACKAGE).parts)) for path in PACKAGE.rglob("__init__.py")
)


@pytest.mark.parametrize("name", PACKAGES)
def test_each_name_of_a_face_is_there(name: str) -> None:
    package = importlib.import_module(name)
    for public in package.__all__:
        value = getattr(package, public, None)
        assert value is not None or importlib.import_module(f"{name}.{public}")


@pytest.mark.parametrize("path", sorted((PACKAGE.parent / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_import_from_faces(path: Path) -> None:
    modules = {
        node.module
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("recprune_export")
    }
    assert modules <= set(PACKAGES)
