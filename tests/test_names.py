"""Names are the field's own: one meaning each, without words that say nothing, and no old name comes back."""

import ast
import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import recprune_export

PACKAGE = Path(recprune_export.__file__).parent
ROOT = PACKAGE.parent
RENAMES = ROOT / "docs" / "decisions" / "renames.csv"
FILES = sorted(PACKAGE.rglob("*.py"))

# A command's file is named after the command, a section's file after the section.
MAY_REPEAT = ("cli/commands/", "report/sections/")
PLACEHOLDERS = {
    "found", "own", "part", "parts", "kept", "made", "told", "given", "seen", "wanted", "asked", "taken", "stated", "gone",
    "shown",
}  # fmt: skip
# Keys of the manifest, whose format stays, and the field's word for items of a history.
ALLOWED = {"kept", "taken_back", "exclude_seen"}


def module_name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def definitions(path: Path) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Public functions, classes and methods of a file."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (m for m in node.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_"))


def test_no_two_modules_share_a_name() -> None:
    counts = Counter(
        path.name
        for path in FILES
        if path.name not in ("__init__.py", "__main__.py") and not module_name(path).startswith(MAY_REPEAT)
    )
    assert not [name for name, count in counts.items() if count > 1]


def test_no_two_classes_share_a_name() -> None:
    places = defaultdict(list)
    for path in FILES:
        for node in definitions(path):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(module_name(path))
    assert not {name: files for name, files in places.items() if len(files) > 1}


def test_functions_are_verbs() -> None:
    names = [
        (module_name(path), node.name)
        for path in FILES
        for node in definitions(path)
        if isinstance(node, ast.FunctionDef)
    ]
    assert not [(path, name) for path, name in names if name.endswith("_of") or name.startswith("of_")]


def words(name: str) -> set[str]:
    return set(name.strip("_").split("_"))


def signature_names(node: ast.FunctionDef | ast.ClassDef) -> list[str]:
    """The name, the parameters of a function, the fields of a class."""
    if isinstance(node, ast.ClassDef):
        fields = [f.target.id for f in node.body if isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name)]
        return [node.name, *(name for name in fields if not name.startswith("_"))]
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [node.name, *(argument.arg for argument in arguments)]


def test_no_placeholder_in_a_public_signature() -> None:
    names = [
        (module_name(path), name) for path in FILES for node in definitions(path) for name in signature_names(node)
    ]
    assert not [(path, name) for path, name in names if words(name) & PLACEHOLDERS and name not in ALLOWED]


def renames(kind: str) -> list[tuple[str, str]]:
    """Pairs of old and new in `renames.csv`."""
    with RENAMES.open(encoding="utf-8") as file:
        return [(row["old"], row["new"]) for row in csv.DictReader(file) if row["kind"] == kind]


def texts() -> dict[str, str]:
    """Everything that people read or run, but the records of decisions and the old names beside which benchmarks measure."""
    folders = ("recprune_export", "tests", "benchmarks", "examples", "docs")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".yml")]
    paths += [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    records = ROOT / "docs" / "decisions"
    old = ROOT / "benchmarks" / "names_of_47080cf.py"
    return {str(p): p.read_text(encoding="utf-8") for p in paths if records not in p.parents and p != old}


def mentions(names: list[str]) -> dict[str, str]:
    """The first of `names` that each file contains as a whole word."""
    pattern = re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, names))})(?![\w-])")
    return {path: match[0] for path, text in texts().items() if (match := pattern.search(text))}


def test_old_modules_do_not_come_back() -> None:
    packages = {".".join(("recprune_export", *path.parent.relative_to(PACKAGE).parts)) for path in FILES}
    assert not mentions([old for old, _ in renames("module") if old not in packages])


def test_old_options_do_not_come_back() -> None:
    assert not mentions([old for old, _ in renames("option") if old.startswith("--")])


def test_a_renamed_name_is_not_defined_under_its_old_one() -> None:
    defined = {
        (module_name(path), node.name)
        for path in FILES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    for old, new in renames("name"):
        module = "/".join(new.split(".")[1:-1]) + ".py"
        assert (module, old.rpartition(".")[2]) not in defined, old
