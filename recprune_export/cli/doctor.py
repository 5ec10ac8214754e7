"""Is all here that the work needs?"""

from pathlib import Path

import click

from recprune_export.cli.main_group import main
from recprune_export.cli.options import FILE


@main.command()
@click.option(
    "-o", "--output", type=FILE, default=Path("artifacts"), show_default=True, help="Where bundles will be written."
)
@click.option("--no-run", "run", flag_value=False, default=True, help="Do not export and run a tiny model.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--quiet", is_flag=True, help="Say only what is not as it should be.")
def doctor(output: Path, run: bool, as_json: bool, quiet: bool) -> None:
    """Check Python, packages, processor, memory, disk, and that a tiny model can be exported and run.

    Exit code 1 where something needed is missing.
    """
    from recprune_export.console.doctor import print_diagnosis
    from recprune_export.diagnostics import diagnose

    found = diagnose(output, run=run)
    print_diagnosis(found, as_json=as_json, quiet=quiet)
    found.raise_verdict()
