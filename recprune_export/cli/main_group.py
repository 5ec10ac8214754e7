"""The command group: the main job needs no command name, and user errors give one sentence and an exit code."""

import errno
from pathlib import Path
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from recprune_export import __version__
from recprune_export.cli.stream_encoding import discard_output, make_streams_printable
from recprune_export.cli.tables import HAS_PRINTED_JSON, print_json
from recprune_export.column_names import suggest_name
from recprune_export.errors import RecpruneError, UsageError
from recprune_export.installation import describe_missing_module, find_distribution, require_whole_tool
from recprune_export.progress import print_stages
from recprune_export.terminal_text import escape_for_terminal

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
NO_PERMISSION = {errno.EACCES, errno.EPERM}
NO_MEMORY = "Out of memory: close other programs, or give a smaller --batch-size."
UNFINISHED_FILE = "A file could not be written completely: free some disk space, or set TMPDIR."
# PyTorch reports exhausted resources only in the text of a RuntimeError.
RESOURCE_MESSAGES = {
    "PytorchStreamWriter failed": UNFINISHED_FILE,
    "unexpected pos": UNFINISHED_FILE,
    "MemoryError": NO_MEMORY,
    "can't allocate memory": NO_MEMORY,
}
# a package that the runtime lacks
WHOLE_TOOL_COMMANDS = ("compress", "generate", "reapply", "refresh", "sweep", "train")
AS_JSON = f"{__name__}.as_json"  # key in the metadata of the context
INTERRUPTION = "Interrupted; no incomplete file was left."
INTERRUPTED = 130  # the exit code of a shell for a program that Ctrl-C ended

EPILOG = """\b
Exit codes: 0 success; 1 a validation failed and nothing was written, or
the verdict is negative; 2 usage error; 3 invalid input file; 4 the model
cannot be captured, pruned or exported; 5 the verdict is inconclusive
(`--undecided pass` or `fail` turns it into 0 or 1); 130 interrupted (Ctrl-C)."""


class MainJobGroup(click.Group):
    """`recprune-export MODEL ...` is `recprune-export compress MODEL ...`."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command with streams that print every character in any encoding."""
        make_streams_printable()
        try:
            return super().main(*args, **extra)
        except OSError as error:  # from text that click prints, such as --help
            if error.errno not in NO_ROOM:
                raise
            discard_output()
            click.echo(f"Error: Standard output cannot be written: {error.strerror}.", err=True)
            raise SystemExit(UsageError.exit_code) from error

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[AS_JSON] = "--json" in args
        group_options = {"--help", "-h", "--version"}
        if args and args[0] not in self.commands and args[0] not in group_options:
            if args[0] in WHOLE_TOOL_COMMANDS:
                _require_whole_tool(args[0])
            try:
                self._check_mistyped(args[0])
            except click.UsageError as error:
                print_json_error(ctx, error, error.message, error.exit_code)
                raise
            _require_whole_tool("compress, the main job,")
            args = ["compress", *args]
        return super().parse_args(ctx, args)

    def _check_mistyped(self, word: str) -> None:
        """Raise `click.UsageError` for a word that is neither an option nor a path, but resembles a command."""
        command = suggest_name(word, self.commands)
        if command is not None and word == Path(word).stem and not word.startswith("-") and not Path(word).exists():
            raise click.UsageError(f"No command or file is named '{word}'. Did you mean '{command}'?")

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer commands, options of the main job, and files for MODEL."""
        items = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            known = {item.value for item in items}
            if "compress" not in self.commands:
                return items
            main_job = self.commands["compress"].shell_complete(ctx, incomplete)
            return items + [item for item in main_job if item.value not in known]
        return [*items, CompletionItem(incomplete, type="file")]

    def invoke(self, ctx: click.Context) -> Any:
        """Turn user errors into one sentence and an exit code; with `--json`, into JSON as well."""
        try:
            with print_stages():
                return super().invoke(ctx)
        except RecpruneError as error:
            self._end(ctx, error, str(error), error.exit_code)
        except click.ClickException as error:  # click prints the message of these errors
            print_json_error(ctx, error, error.format_message(), error.exit_code)
            error.message = escape_for_terminal(error.message)  # type: ignore[misc]
            raise
        except OSError as error:
            advice = find_advice(error)
            if advice is None:
                raise
            where = f" ({error.filename})" if error.filename else ""
            self._end(ctx, error, f"{error.strerror}{where}: {advice}. Existing files were not changed.")
        except (MemoryError, RuntimeError) as error:
            text = f"{type(error).__name__}: {error}"
            message = next((message for symptom, message in RESOURCE_MESSAGES.items() if symptom in text), None)
            if message is None:
                raise
            self._end(ctx, error, f"{message} Existing files were not changed.")
        except ModuleNotFoundError as error:
            missing = describe_missing_module(error, str(ctx.invoked_subcommand))
            if missing is None:
                raise
            self._end(ctx, error, missing)
        except KeyboardInterrupt as error:
            print_json_error(ctx, error, INTERRUPTION, INTERRUPTED)
            click.echo(INTERRUPTION, err=True)
            ctx.exit(INTERRUPTED)

    def _end(
        self, ctx: click.Context, error: Exception, message: str, exit_code: int = UsageError.exit_code
    ) -> NoReturn:
        """Print an error, and exit."""
        print_json_error(ctx, error, message, exit_code)
        print_error(message)
        ctx.exit(exit_code)


def print_json_error(ctx: click.Context, error: BaseException, message: str, exit_code: int) -> None:
    """With `--json`, print the class of an error, its message and its exit code on stdout, unless a result was printed already."""
    if ctx.meta[AS_JSON] and not ctx.meta.get(HAS_PRINTED_JSON, False):
        print_json({"error": {"type": type(error).__name__, "message": message, "exit_code": exit_code}})


def print_error(message: str) -> None:
    """Print an error on stderr; further lines are indented, so that no line starts with a name from the input."""
    click.echo(escape_for_terminal("Error: " + message.replace("\n", "\n  ")), err=True)


class LackingCommand(click.ClickException):
    """A command that the runtime lacks; the error is one line, without the usage text."""

    exit_code = UsageError.exit_code


def _require_whole_tool(user: str) -> None:
    """Raise `LackingCommand` if this is the runtime."""
    try:
        require_whole_tool(user)
    except UsageError as error:
        raise LackingCommand(str(error)) from error


def find_advice(error: OSError) -> str | None:
    """Return advice for a file system error; None for an error that may be a bug."""
    if error.errno in NO_ROOM:
        return "free some disk space, or set TMPDIR to a folder with more"
    if error.errno in NO_PERMISSION:
        return "change the permissions of the file or its folder, or choose another path"
    if "temporary directory" in (error.strerror or ""):
        return "set TMPDIR to a writable folder"
    return None


@click.group(
    cls=MainJobGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, package_name=find_distribution())
def main() -> None:
    """Make a trained recommender smaller and faster on CPU, and measure the result.

    \b
    recprune-export MODEL --sparsity 0.7    prune, fine-tune, export, validate; write a bundle
    """
