"""The outputs of each command with `--json`: typed dictionaries, from which the published schemas are generated."""

__all__ = ["bundle_outputs", "common_keys", "job_outputs", "output_schemas", "reference_page"]
