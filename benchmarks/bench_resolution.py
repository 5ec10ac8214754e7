"""How much of the error of a metric stays in the paired change from dense to pruned, by bundle.

    python benchmarks/bench_resolution.py BUNDLE ...

The half width of the interval of each change of a bundle, as a fraction of 1.96 standard errors of the metric itself:
`row_resolution.PAIRED_FRACTION` is about the least. Prints a table, and JSON with the machine as the last line.
"""

import json
from pathlib import Path

import click

from recprune_export.bundle import read_manifest
from recprune_export.environment import environment
from recprune_export.evidence import Estimate
from recprune_export.row_resolution import expected_resolution


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
def main(bundles: tuple[Path, ...]) -> None:
    """Read every bundle."""
    results = []
    print(f"{'bundle':>24} {'metric':>10} {'rows':>9} {'resolves':>10} {'fraction':>9}")
    for bundle in bundles:
        manifest = read_manifest(bundle)
        for change in manifest.changes.values():
            low, high = change["interval"]
            half = Estimate(0.0, low, high).resolution
            fraction = half / expected_resolution(change["error"], 1.0)
            print(f"{manifest.name:>24} {change['metric']:>10} {change['rows']:>9,} {half:>10.2g} {fraction:>9.3f}")
            results.append({
                "bundle": manifest.name, "metric": change["metric"], "rows": change["rows"], "resolution": half,
                "fraction": fraction, "sparsity": manifest.settings["sparsity"],
            })  # fmt: skip
    print(json.dumps({"benchmark": "resolution", "environment": environment(), "results": results}))


if __name__ == "__main__":
    main()
