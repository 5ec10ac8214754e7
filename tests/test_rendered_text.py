"""Names of others are rendered as text alone: nothing in them steers a terminal, a CI runner or a Markdown page."""

import json
import re
import unicodedata

import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from recprune_export.bundle.servers import ServerFiles, kserve, readme
from recprune_export.bundle.servers.serving_program import PREDICT_REQUEST, PROGRAM_FILE
from recprune_export.cli import main
from recprune_export.cli.tables import echo, make_console, make_table, print_json
from recprune_export.evidence import Verdict
from recprune_export.gate import Check, Finding
from recprune_export.gate.output import render_junit, render_markdown
from recprune_export.markdown_text import code_span, escape_markdown
from recprune_export.onnx import SessionOptions
from recprune_export.program import Input, Output, Signature
from recprune_export.report import render_check_report
from recprune_export.terminal_text import escape_for_terminal, escape_line
from recprune_export.workflow_commands import neutralize_commands, render_command

ACTIVE = [
    "::error::x", "##[error]x", "\x1b[2J", "\x1b]8;;https://e.org\x07a", "\u202e", "\r", "\n", "![a](b)", "[a](javascript:x)",
    "<img src=x>", "<!--", "|", "`", "``", "https://e.org", "www.e.org", "a@b.org", "*a*", "_a_", "~~a~~", "&amp;", "\\", "# a",
    "- a", "1. a", "> a", "$a$", "---", "\x9b31m", "%0A", "::", "{{ a }}", "\u2028", "\ud800", "\0",
    "[link=https://e.org]a[/link]", "    a", "```", "<b", "\u200b",
]  # fmt: skip
TEXTS = st.lists(st.one_of(st.sampled_from(ACTIVE), st.text(max_size=4)), max_size=6).map("".join)
PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
PLAIN = {"text", "code_inline", "softbreak"}
# What our own Markdown is made of.
BLOCKS = ("heading", "paragraph", "bullet_list", "list_item", "table", "thead", "tbody", "tr", "th", "td", "strong")
OURS = PLAIN | {f"{kind}_{end}" for kind in BLOCKS for end in ("open", "close")} | {"inline", "fence"}


def tokens_of(markdown: str) -> list[Token]:
    return [token for outer in PARSER.parse(markdown) for token in (outer, *(outer.children or ()))]


def check_no_active(markdown: str, allowed: set[str]) -> None:
    for token in tokens_of(markdown):
        assert token.type in allowed, (token.type, markdown)
        if token.type == "text":  # GitHub makes links of these itself
            assert not re.search(r"://|www\.|@|mailto:|#\d", token.content, re.IGNORECASE), markdown


@given(TEXTS)
def test_a_terminal_gets_no_control(text: str) -> None:
    written = escape_for_terminal(text)
    assert not [
        c for c in written if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") and c not in "\n\t\u200c\u200d"
    ]
    assert "\n" not in escape_line(text)


def test_files_are_the_same_in_a_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = code_span("std::a"), escape_markdown("std::a")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert (code_span("std::a"), escape_markdown("std::a")) == outside == ("`std::a`", "std::a")
    assert escape_for_terminal("std::a") == "std:\\:a"


@given(TEXTS)
def test_no_line_of_a_log_is_a_command_however_it_is_broken(text: str) -> None:
    written = neutralize_commands(text)
    assert "::" not in written
    assert "##[" not in written


def decode(command: str) -> tuple[str, dict[str, str], str]:
    """What a runner reads, after its own rules."""
    head, _, message = command[2:].partition("::")
    name, _, stated = head.partition(" ")
    pairs = [pair.partition("=") for pair in stated.split(",")] if stated else []
    values = [*(value for _, _, value in pairs), message]
    for code, character in (("%2C", ","), ("%3A", ":"), ("%0A", "\n"), ("%0D", "\r"), ("%25", "%")):
        values = [value.replace(code, character) for value in values]
    return name, dict(zip((key for key, _, _ in pairs), values, strict=False)), values[-1]


@given(TEXTS, TEXTS)
def test_a_command_of_ours_is_one_line_and_says_what_it_should(title: str, message: str) -> None:
    command = render_command("error", message, title=title)
    assert not re.search(r"[\r\n]", command)
    assert decode(command) == ("error", {"title": title}, message)


@given(TEXTS)
@example("1. a")
@example("a`|`b")
def test_markdown_shows_the_text_and_nothing_else(text: str) -> None:
    for markdown in (
        escape_markdown(text),
        code_span(text),
        f"| {escape_markdown(text)} |\n|---|\n| {code_span(text)} |",
    ):
        check_no_active(markdown, OURS - {"fence"})
    shown = "".join(token.content for token in tokens_of(escape_markdown(text)) if token.type in PLAIN)
    assert shown.replace(" ", "") == escape_line(text).replace(" ", "").replace("|", "|")


@given(TEXTS)
def test_a_table_keeps_its_cells(text: str) -> None:
    rows = f"| a | b |\n|---|---|\n| {escape_markdown(text)} | {code_span(text)} |\n"
    assert [t.type for t in tokens_of(rows)].count("td_open") == 2


def finding(text: str) -> Finding:
    return Finding(f"quality, {text}", Verdict.FAILS, f"{text} went down.", 1.0, 0.5, limit="at most 0 worse")


@given(TEXTS)
def test_the_files_of_a_check_hold_no_active_element(text: str) -> None:
    made = Check(text, text, (finding(text),), {}, 1, 1.0, environment={})
    markdown = render_markdown(made)
    check_no_active(markdown, OURS - {"fence"})
    assert len([t for t in tokens_of(markdown) if t.type == "td_open"]) == 6
    page = render_check_report(made)
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]", page)
    assert "<img" not in page
    suite = render_junit(made)[0]
    assert "\x1b" not in suite.attrib["name"]


@given(TEXTS)
def test_the_readme_of_a_bundle_holds_no_active_element(text: str) -> None:
    signature = Signature(
        (Input(text, "int64", ("batch",), ((0, 9),), bad_ids=(0,)),), (Output(text, "float32", ("batch",)),)
    )
    page = readme.render_readme(
        text,
        signature.to_dict(),
        SessionOptions(),
        scores={},
        encoding=None,
        servers=ServerFiles(
            dict.fromkeys((PROGRAM_FILE, PREDICT_REQUEST, kserve.REQUEST, kserve.INFERENCE_SERVICE), b""), 0
        ),
        ignored=[text],
        figures=[text],
        shared_rows={
            "tables": [{"table": text, "before": 9, "after": 2}],
            **{key: {"rows": 1, "metrics": {"dense": {text: 0.5}}} for key in ("with_rare", "without_rare")},
        },
    )
    check_no_active(page, OURS)
    assert len([token for token in tokens_of(page) if token.type == "td_open"]) == 2 * 5 + 3


@pytest.mark.parametrize("text", ACTIVE)
def test_what_commands_print_is_text(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    text = text.replace("\ud800", "")  # the streams replace it (stream_encoding.py)
    echo(text)
    table = make_table(text, text, text)
    table.add_row(text, text)
    make_console().print(table)
    make_console().print(text)
    print_json({text: text + "##[error]"})
    out = capsys.readouterr().out
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", out)
    assert "##[" not in out
    assert not any(line.strip().startswith("::") for line in out.splitlines())
    start = out.index("{\n")
    assert json.loads(out[start:]) == {text: text + "##[error]"}


@pytest.mark.parametrize("command", ["verify", "check"])
def test_errors_of_commands_are_text(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    done = CliRunner().invoke(main, [command, "no\x1b[2J\n::error::such", *(["\x1b[2J"] if command == "check" else [])])
    assert done.exit_code in (2, 3)
    assert "\x1b" not in done.stderr
    assert "::error" not in done.stderr
