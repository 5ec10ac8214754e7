"""`completion`: scripts that complete commands in a shell."""

import click
from click.shell_completion import get_completion_class

from recprune_export.cli.main_group import main

PROGRAM = "recprune-export"
SHELLS = ("bash", "zsh", "fish")


@main.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the completion script for a shell.

    \b
    bash: recprune-export completion bash > ~/.local/share/bash-completion/completions/recprune-export
    zsh:  recprune-export completion zsh > ~/.zfunc/_recprune-export    (with ~/.zfunc in $fpath)
    fish: recprune-export completion fish > ~/.config/fish/completions/recprune-export.fish
    """
    completion_class = get_completion_class(shell)
    assert completion_class is not None  # one of `SHELLS`
    variable = f"_{PROGRAM.replace('-', '_')}_complete".upper()
    # `source` first asks bash for its version, which may not be installed on the machine that writes the script.
    complete = completion_class(main, {}, PROGRAM, variable)
    click.echo(complete.source_template % complete.source_vars())
