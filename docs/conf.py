"""The documentation site: these pages, the reference from the docstrings, and the tutorial, which is executed."""

import simclr_jax

project = "simclr_jax"
author = "The simclr_jax authors"
release = simclr_jax.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"simclr_jax {release}"
exclude_patterns = ["_build"]
# Docstrings are plain text with single backticks around code, and have a section of their own.
default_role = "code"
napoleon_google_docstring = True
napoleon_custom_sections = [("Reference", "Notes"), ("Expected", "Notes"), ("Command", "Notes")]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True, "imported-members": True}
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
suppress_warnings = ["myst.xref_missing"]
