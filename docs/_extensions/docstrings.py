"""Docstrings as the project writes them, for autodoc: names in single backticks are code, and links where they have a page."""

import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

SINGLE = re.compile(r"(?<![`:\\\w])`([^`]+)`(?!`)")
BEFORE = " \t([{<'\"-/:"  # after these, and at the beginning, markup may begin
NAME = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*[a-z]\w*")  # a class, perhaps with its module


def mark_code(text: str) -> str:
    """Turn single backticks into literals, and into links where they name a class.

    >>> mark_code("Raises `UsageError` where `a + b` is ``0``.")
    'Raises :name:`UsageError` where ``a + b`` is ``0``.'
    """

    def mark(match: re.Match[str]) -> str:
        code = match[1]
        before, after = text[: match.start()][-1:], text[match.end() :][:1]
        marked = f":name:`{code}`" if NAME.fullmatch(code) else f"``{code}``"
        # An escaped space is where markup may begin and end, and is not shown.
        return ("" if before in BEFORE else "\\ ") + marked + ("\\ " if after.isalnum() else "")

    return SINGLE.sub(mark, text)


def convert_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Convert the lines of a docstring in place."""
    converted: list[str] = []
    in_code = False
    for line in lines:
        before = converted[-1].strip() if converted else ""
        if not line.strip():
            converted.append("")
        elif line.lstrip().startswith((">>> ", "... ")):
            converted.append(line)
        elif line.startswith("    ") and (in_code or not (before or is_in_list(converted))):
            converted += [line] if in_code else ["::", "", line]
            in_code = True
        else:
            in_code = False
            if is_item(line) and before and not is_in_list(converted):
                converted.append("")  # reStructuredText wants a blank line before a list
            converted.append(mark_code(line.replace("|", "\\|") if "`" not in line else line))
    lines[:] = converted


def shorten_defaults(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Write `...` for defaults that are no code, such as <factory>: with them Sphinx reads no signature."""
    return signature and strip_annotations(re.sub(r"= ?<[^<>]*>", "= ...", signature)), returns


def strip_annotations(signature: str) -> str:
    """Leave out what `Annotated` adds to a type.

    >>> strip_annotations("(sizes: ~typing.Annotated[tuple[int, ...], JsonForm(write=<lambda>)] = (), name: str)")
    '(sizes: tuple[int, ...] = (), name: str)'
    """
    while match := re.search(r"[~\w.]*Annotated\[", signature):
        depth, comma, end = 0, None, match.end()
        while depth >= 0:
            depth += {"[": 1, "(": 1, "]": -1, ")": -1}.get(signature[end], 0)
            comma = end if comma is None and depth == 0 and signature[end] == "," else comma
            end += 1
        signature = signature[: match.start()] + signature[match.end() : comma or end - 1] + signature[end:]
    return signature


def is_item(line: str) -> bool:
    """Return whether a line begins an item of a list."""
    return line.lstrip().startswith("- ")


def is_in_list(lines: list[str]) -> bool:
    """Return whether the last paragraph of the lines belongs to a list.

    >>> is_in_list(["Either:", "", "- this, which", "  is long", ""]), is_in_list(["- that", "", "Text."])
    (True, False)
    """
    text = [line for line in lines if line.strip()]
    return bool(text) and (text[-1].startswith(" ") or is_item(text[-1]))


def refer_to_name(
    name: str, rawtext: str, text: str, lineno: int, inliner: Any, options: Any = None, content: Any = ()
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """Return a link to the name, wherever it is defined, and code where it has no page."""
    reference = addnodes.pending_xref(
        rawtext,
        refdomain="py",
        reftype="obj",
        reftarget=text,
        refspecific=True,
        refwarn=False,
        refexplicit=False,
        in_docstring=True,
    )
    reference += nodes.literal(text, text, classes=["xref", "py", "py-obj"])
    return [reference], []


def keep_code(app: Sphinx, env: Any, node: addnodes.pending_xref, content: nodes.Element) -> nodes.Node | None:
    """Return plain code for a name of a docstring or a type of a signature that has no page; other names are warnings."""
    if node.get("refdomain") != "py":
        return None
    ancestor = node.parent
    while ancestor is not None and not isinstance(ancestor, addnodes.desc_signature):
        ancestor = ancestor.parent
    return content if ancestor is not None or node.get("in_docstring") else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the conversion."""
    app.connect("autodoc-process-docstring", convert_docstring)
    app.connect("autodoc-process-signature", shorten_defaults)
    app.connect("missing-reference", keep_code, priority=900)
    app.add_role("name", refer_to_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
