"""What each command prints under `--json`: typed dictionaries, from which the published schemas are generated."""
