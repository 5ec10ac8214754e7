"""`{command-reference}`: every command of recprune-export with its options in groups, read from click."""

import re
from collections.abc import Iterator

import click
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PROGRAM = "recprune-export"


class CommandReference(SphinxDirective):
    """A section for each command: its usage, its help text, and its options."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        from recprune_export.cli import main

        context = click.Context(main, info_name=PROGRAM)
        return [self.describe(main.commands[name], context) for name in sorted(main.commands)]

    def describe(self, command: click.Command, parent: click.Context) -> nodes.section:
        """Return the section of a command."""
        name = str(command.name)
        context = click.Context(command, info_name=name, parent=parent)
        section = nodes.section("", nodes.title("", "", nodes.literal("", name)), ids=[name], names=[name])
        self.state.document.note_explicit_target(section)
        usage = " ".join((PROGRAM, name, *command.collect_usage_pieces(context)))
        section += nodes.literal_block(usage, usage, language="text")
        for paragraph in re.split(r"\n\s*\n", command.help or ""):
            section += self.render(paragraph)
        for title, options in list_options(command, context):
            section += nodes.rubric("", title)
            entries = nodes.definition_list(classes=["options"])
            for option in options:
                entries += self.describe_option(option, context)
            section += entries
        return section

    def render(self, paragraph: str) -> nodes.Node:
        """Return a paragraph of help text; click shows one that begins with `\\b` as it stands."""
        if paragraph.lstrip().startswith("\b"):
            text = paragraph.partition("\b")[2].strip("\n")
            return nodes.literal_block(text, text, language="text")
        return nodes.paragraph("", "", *mark_options(" ".join(paragraph.split())))

    def describe_option(self, option: click.Option, context: click.Context) -> nodes.Node:
        """Return an option: its spellings, and what it does."""
        record = option.get_help_record(context)
        spelling, text = record if record is not None else (option.opts[0], "")
        term = nodes.term("", "", nodes.literal(spelling, spelling))
        return nodes.definition_list_item("", term, nodes.definition("", nodes.paragraph("", "", *mark_options(text))))


def list_options(command: click.Command, context: click.Context) -> Iterator[tuple[str, list[click.Option]]]:
    """Yield the title and the options of each group that has some."""
    from recprune_export.cli.option_groups import GroupedCommand, group_options

    if isinstance(command, GroupedCommand):
        groups = {f"{title} options": options for title, options in group_options(command, context).items()}
    else:
        groups = {"Options": command.get_params(context)}
    for title, parameters in groups.items():
        options = [p for p in parameters if isinstance(p, click.Option) and not p.hidden and "--help" not in p.opts]
        if options:
            yield title, options


def mark_options(text: str) -> list[nodes.Node]:
    """Return a text in which options, and what stands in backticks, is code.

    >>> [str(node) for node in mark_options("Belongs to --top-k.")]
    ['Belongs to ', '<literal>--top-k</literal>', '.']
    """
    parts = re.split(r"(`[^`]+`|(?<![\w-])--[a-z][\w-]*)", text)
    return [
        nodes.literal("", part.strip("`")) if number % 2 else nodes.Text(part)
        for number, part in enumerate(parts)
        if part
    ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("command-reference", CommandReference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
