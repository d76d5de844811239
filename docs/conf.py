"""Sphinx configuration: `sphinx-build -W -b html docs docs/_build/html`."""

from __future__ import annotations

import sys
from pathlib import Path

import gossipfl

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "gossipfl"
author = "The gossipfl developers"
html_show_copyright = False
version = release = gossipfl.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_click",
    "config_reference",
    "gallery",
    "pictures",
    "plain_docstrings",
]
exclude_patterns = ["_build", "generated"]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

smartquotes = False

html_theme = "furo"
html_title = "gossipfl"
html_static_path = ["_static"]
html_css_files = ["gossipfl.css"]
pygments_dark_style = "monokai"

autodoc_class_signature = "separated"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
