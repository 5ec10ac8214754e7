"""Section on the bits of two bundles: the weights that are stored in different forms."""

from collections.abc import Mapping

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.report.comparison.bundle_pair import SIDES, BundlePair
from recprune_export.report.numbers import TO
from recprune_export.report.page import PageTable, Section, name_markup

MAX_ROWS = 60
WHOLE = "fp32"


def compare_bits(pair: BundlePair) -> Section | None:
    """Return the weights whose forms differ; None where all weights of both are in fp32."""
    a, b = read_forms(pair.a), read_forms(pair.b)
    if not a and not b:
        return None
    names = list(dict.fromkeys((*a, *b)))
    forms = {name: tuple(of.get(name, TO if of else WHOLE) for of in (a, b)) for name in names}
    different = [name for name in names if forms[name][0] != forms[name][1]]
    same = len(names) - len(different)
    sentence = f"{same:,} of {len(names):,} weights are stored in the same form in both."
    if not different:
        return Section("bits", "Bits", (sentence,), gist="the same in both", is_open=False)
    listed = f", the first {MAX_ROWS} of {len(different):,}" if len(different) > MAX_ROWS else ""
    rows = tuple((name_markup(name), *forms[name]) for name in different[:MAX_ROWS])
    table = PageTable(f"Weights in different forms{listed}", ("weight", *SIDES), rows, frozenset({0, 1, 2}))
    note = " A dash is a weight that the file of that bundle does not have by this name." if TO in str(rows) else ""
    return Section("bits", "Bits", (sentence + note,), tables=(table,))


def read_forms(manifest: Manifest) -> Mapping[str, str]:
    """Return the form of each weight by its name; empty for a bundle in fp32."""
    weights = (*manifest.quantization.get("tables", ()), *manifest.quantization.get("layers", ()))
    return {weight["name"]: weight["form"] for weight in weights}
