"""The documentation site: `make docs` builds it strictly, without network."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import recprune_export

project = "recprune-export"
author = "the authors of recprune-export"
copyright = author
version = release = recprune_export.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx_external_toc",
    "sphinx_copybutton",
    "_extensions.command_reference",
    "_extensions.docstrings",
    "_extensions.own_files",
    "_extensions.source_pages",
    "_extensions.tables",
]
external_toc_path = "contents.yml"
exclude_patterns = ["_build", "decisions/renames.csv"]

# Strict: `make docs` passes --nitpicky and --fail-on-warning; `_extensions/docstrings.py` says which names may lack a page.

# Markdown as on GitHub.
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 5
myst_highlight_code_blocks = True
nb_execution_mode = "off"  # tests/docs/test_tutorials.py executes the notebooks; their outputs are stored
highlight_language = "text"

autodoc_inherit_docstrings = False  # those of PyTorch are written in another way
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False

html_theme = "pydata_sphinx_theme"
html_title = "recprune-export"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": True,
    "footer_start": [],
    "footer_end": [],
    "header_links_before_dropdown": 7,
}
copybutton_exclude = ".linenos, .gp, .go"
