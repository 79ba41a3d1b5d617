"""Configuration of the documentation: ``sphinx-build -W -b html docs docs/_build/html``."""

import logging
import sys
from pathlib import Path

from voxstack import __version__

sys.path.insert(0, str(Path(__file__).parent))  # gallery_order
# A package of the theme's turns all logging on; the events of the gallery's examples are not for who builds the pages.
logging.getLogger("voxstack").setLevel(logging.WARNING)

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
    "sphinx_gallery.gen_gallery",
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

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",  # all of them are run
    "ignore_pattern": r"wager2008",  # these need data that are not in the repository
    "within_subsection_order": "gallery_order.ReadingOrder",
    "backreferences_dir": "gallery/using",  # for each function the examples that use it
    "doc_module": ("voxstack",),
    "capture_repr": ("_repr_html_",),
    "abort_on_example_error": True,
    "write_computation_times": False,
    "copyfile_regex": r"",
}

html_theme = "furo"
html_title = "voxstack"
html_static_path = ["_static"]
html_css_files = ["site.css"]
