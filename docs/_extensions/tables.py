"""Cells of tables that hold figures do not break: they get the class `figures`."""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

FIGURES = re.compile(r"[-+−±≤<>~×x%.,:/\[\]()\d\s]*\d[-+−±≤<>~×x%.,:/\[\]()\d\s]*(ms|µs|us|s|MB|kB|GB|B|M)?")
MOST_CHARACTERS = 24  # longer ones, such as a list of ratios, break between figures


class MarkFigures(SphinxPostTransform):
    """Mark the cells that are one figure, perhaps with its interval and unit."""

    default_priority = 500

    def run(self, **options: Any) -> None:
        for cell in self.document.findall(nodes.entry):
            text = cell.astext()
            if len(text) <= MOST_CHARACTERS and ", " not in text and FIGURES.fullmatch(text):
                cell["classes"].append("figures")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the transform."""
    app.add_post_transform(MarkFigures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
