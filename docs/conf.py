"""The documentation site: these pages, the reference from the docstrings, and the tutorial, which is executed."""

import re

import simclr_jax

project = "simclr_jax"
author = "The simclr_jax authors"
release = simclr_jax.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"simclr_jax {release}"
exclude_patterns = ["_build", "jupyter_execute"]
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


def _for_sphinx(app, what, name, obj, options, lines):
    """Norms such as |W| are no substitutions, and the fields of a class are a list."""
    del app, name, obj, options
    fields = re.compile(r"^([a-z_]\w*(?:, \w+)*): ")
    result: list[str] = []
    for line in lines:
        line = line.replace("|", r"\|") if ">>>" not in line and "..." not in line[:8] else line
        if what == "class" and fields.match(line):
            if not (result and result[-1].startswith(("*", "  "))):
                result.append("")
            line = fields.sub(r"* ``\1``: ", line)
        result.append(line)
    lines[:] = result


def _skip_fields(app, what, name, obj, skip, options):
    """The fields of a NamedTuple stand in its docstring."""
    del app, what, name, options
    return skip or str(getattr(obj, "__doc__", "")).startswith("Alias for field number")


def setup(app):
    """Hooks of this site."""
    app.connect("autodoc-skip-member", _skip_fields)
    app.connect("autodoc-process-docstring", _for_sphinx, priority=100)
