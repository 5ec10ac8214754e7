"""`sign`: sign the manifest of a bundle."""

from pathlib import Path

import click

from recprune_export.cli.input_paths import BUNDLE, PRIVATE_KEY
from recprune_export.cli.main_group import main
from recprune_export.cli.screen_options import screen_options
from recprune_export.cli.tables import echo, print_json
from recprune_export.progress import show_status


@main.command()
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--private-key", type=PRIVATE_KEY, required=True, metavar="PEM", help="An Ed25519 private key, without a password."
)
@screen_options()
def sign(bundle: Path, private_key: Path, as_json: bool) -> None:
    """Sign the manifest of BUNDLE.

    The signature covers the checksums of all files; `verify --public-key` checks it. A packed bundle is rewritten with the
    signature: the bytes are the same as those of `sign` followed by `pack`.
    """
    with show_status(f"Signing {bundle}"):
        from recprune_export.bundle.archive.manifest_signature import read_private_key
        from recprune_export.bundle.archive.sign import sign_bundle

        path = sign_bundle(bundle, read_private_key(private_key))
    if as_json:
        print_json({"bundle": bundle, "output": path})
    else:
        echo(f"Wrote {path}.")
