# SPDX-License-Identifier: LGPL-2.1-or-later
"""Settings of Sphinx: `make docs` and `make man`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import manual

import drgn_pageowner

project = "drgn-pageowner"
version = release = drgn_pageowner.__version__
extensions = ["manual", "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.apidoc"]
exclude_patterns = ["generated/api/modules.rst", "generated/readme.md"]
# Several modules re-export a name, or have attributes of the same name: the first one is linked.
suppress_warnings = ["ref.python"]

highlight_language = "none"
# Do not replace two hyphens by a dash.
smartquotes = False
html_theme = "alabaster"
html_theme_options = {"page_width": "75rem", "sidebar_width": "17rem"}
html_show_copyright = False
myst_heading_anchors = 3

# Write an API page for every module, with the docstrings of its public names.
apidoc_modules = [
    {
        "path": "../drgn_pageowner",
        "destination": "generated/api",
        "separate_modules": True,
        "module_first": True,
        "exclude_patterns": ["../drgn_pageowner/__main__.py"],
    }
]
apidoc_implicit_namespaces = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
add_module_names = False

man_pages = manual.man_pages()
man_make_section_directory = False
