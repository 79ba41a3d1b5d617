"""Configuration of the documentation: ``sphinx-build -W -b html docs docs/_build/html``."""

from voxstack import __version__

project = "voxstack"
author = "The voxstack developers"
copyright = author
release = __version__
version = __version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates"]
# Single backticks in docstrings: a link where the name is documented, else code.
default_role = "py:obj"

myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
numpydoc_show_class_members = False

html_theme = "furo"
html_title = "voxstack"
html_static_path = ["_static"]
html_css_files = ["site.css"]
