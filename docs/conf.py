"""How the documentation site is built (``make docs``): Markdown pages, a reference from the docstrings."""

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

project = "jaxnet"
author = "The jaxnet authors"
copyright = "the jaxnet authors, MIT licence"
with (HERE.parent / "pyproject.toml").open("rb") as file:
    version = release = tomllib.load(file)["project"]["version"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "site_reference",
    "site_examples",
]
exclude_patterns = ["_build"]

# Every link of a page must lead somewhere, headings included; every name of jaxnet in a docstring must exist.
nitpicky = True
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
maximum_signature_line_length = 100
add_module_names = False
python_use_unqualified_type_names = True

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"jaxnet {version}"
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
