"""A CI gate as a script, for rules beyond the options of `check`: compare a new artifact with the artifact in production.

python examples/ci/gate.py NEW BASE        two bundles, packed or not, or .onnx files

Limits: latency at most 5 % higher, quality at most 0.001 lower, and as an additional rule a budget for the size. Without
additional rules, use `recprune-export check NEW --against BASE`. Exit codes: 0 pass, 1 fail, 5 undecided.
"""

import sys
from pathlib import Path

from recprune_export.bundle import open_bundle_path
from recprune_export.errors import RecpruneError, ValidationFailed
from recprune_export.evidence import Verdict
from recprune_export.gate import Limits, check, open_artifact, write_junit, write_markdown

BUDGET = 200e6  # bytes, the space in a container image
LIMITS = Limits(max_regression=0.05, max_drop=0.001)


def gate(new: Path, base: Path, time_limit: float = 40.0, budget: float = BUDGET) -> None:
    """Compare, write the results for CI systems, and raise the verdict."""
    found = check(new, base, LIMITS, batches=(1, 32), time_limit=time_limit)
    write_junit(found, Path("gate.xml"))
    write_markdown(found, Path("gate.md"))
    for finding in found.findings:
        if finding.verdict is not Verdict.HOLDS:
            print(f"{finding.gate}: {finding.verdict.value}. {finding.reason}")
    found.raise_verdict()
    size = open_artifact(new).bytes
    if size > budget:
        raise ValidationFailed(f"{new} has {size:,} bytes, more than the {budget:,.0f} that there is room for.")


def main(arguments: list[str]) -> int:
    """Return the exit code."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        with open_bundle_path(Path(arguments[0])) as new, open_bundle_path(Path(arguments[1])) as base:
            gate(new, base)
    except RecpruneError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    print("The new artifact may take the place of the old one.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
