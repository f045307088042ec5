"""Configuration of the documentation: `make docs` builds it without a network."""

from __future__ import annotations

import os
import shutil
import warnings
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, get_origin

import numpy as np
from docutils import nodes
from docutils.parsers.rst.directives.images import Figure
from sphinx.ext import autosummary

from c2sti import pl

HERE = Path(__file__).parent

# The tutorials live at the top of the repository, where the tests run them; Sphinx sees what lies beside this file.
# All of `generated` is made anew: a page left over from a name that is gone would fail the build.
GENERATED = HERE / "generated"
shutil.rmtree(GENERATED, ignore_errors=True)
shutil.copytree(HERE.parent / "tutorials", GENERATED / "tutorials", ignore=shutil.ignore_patterns(".*"))

# -- Project

project = "c2sti"
author = "c2sti developers"
copyright = f"2026, {author}"
release = version = installed("c2sti")
REPOSITORY = ""  # address of the public repository; pages link to it and to its issues once it is here

# -- What is read

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx_autodoc_typehints",  # after napoleon
    "sphinx_design",
    "sphinxcontrib.bibtex",
]
templates_path = ["_templates"]
suppress_warnings = ["config.cache"]  # a function in this file, below, cannot be pickled
exclude_patterns = ["_build", "jupyter_execute", "**.ipynb_checkpoints", "benchmark/*"]  # the last are parts of a page
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# The test suite executes the tutorials; here only where the site is published, so that it shows their figures.
nb_execution_mode = "force" if os.environ.get("READTHEDOCS") else "off"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_output_stderr = "remove"
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "alpha"

autosummary_generate = True
autosummary.WELL_KNOWN_ABBREVIATIONS += ("eq.",)  # summaries are first sentences, which do not end there
# Two names that differ in case only would be one file on some systems.
autosummary_filename_map = {"c2sti.datasets.Phantom": "c2sti.datasets.Phantom-class"}
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_custom_sections = ["Returns"]  # prose and lists of what is written, not a table of types
always_use_bars_union = True
typehints_defaults = "braces"
# Between sphinx-autodoc-typehints and Sphinx, and not ours to mend.
warnings.filterwarnings("ignore", message=".*_RstSnippetParser.set_application")


# Plots take their shared parameters by a wrapper, through which sphinx-autodoc-typehints looks at a bare `**look`.
for name in pl.__all__:
    del getattr(pl, name).__wrapped__


def typehints_formatter(annotation: Any, config: object) -> str | None:
    """Say `ndarray` where the full annotation would be a line of brackets; dtypes and shapes are in the text."""
    return ":class:`~numpy.ndarray`" if get_origin(annotation) is np.ndarray else None


def without_colon(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Take out the line that sphinx-autodoc-typehints puts under Returns for a napoleon without custom sections."""
    for i in range(2, len(lines)):
        if lines[i] == ":" and lines[i - 2] == "Returns":
            del lines[i]
            return


class ThemedFigure(Figure):
    """A figure; where `name_dark.png` lies beside `name.png`, dark pages show that."""

    def run(self) -> list[nodes.Node]:
        found = super().run()
        light = next(found[0].findall(nodes.image), None)
        env = self.state.document.settings.env
        if light is None or not light["uri"].endswith(".png"):
            return found
        uri = light["uri"].removesuffix(".png") + "_dark.png"
        if Path(env.relfn2path(uri)[1]).exists():
            dark = light.deepcopy()
            dark["uri"] = uri
            light["classes"] += ["only-light"]
            dark["classes"] += ["only-dark"]
            light.parent.insert(light.parent.index(light) + 1, dark)
        return found


def setup(app: Any) -> None:
    """Runs after the extensions' own."""
    app.connect("autodoc-process-docstring", without_colon, priority=499)
    app.add_directive("figure", ThemedFigure, override=True)


intersphinx_mapping = {
    "python": ("https://docs.python.org/3", None),
    "anndata": ("https://anndata.readthedocs.io/en/stable", None),
    "matplotlib": ("https://matplotlib.org/stable", None),
    "numpy": ("https://numpy.org/doc/stable", None),
    "pandas": ("https://pandas.pydata.org/docs", None),
    "scanpy": ("https://scanpy.readthedocs.io/en/stable", None),
    "scipy": ("https://docs.scipy.org/doc/scipy", None),
    "spatialdata": ("https://spatialdata.scverse.org/en/stable", None),
    "squidpy": ("https://squidpy.readthedocs.io/en/stable", None),
}
if os.environ.get("C2STI_DOCS_OFFLINE"):
    intersphinx_mapping = {}

# -- What is written

html_theme = "sphinx_book_theme"
html_title = "c2sti"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "logo": {"image_light": "_static/logo.svg", "image_dark": "_static/logo_dark.svg", "alt_text": "c2sti"},
    "show_navbar_depth": 1,
    "use_download_button": False,
    "navbar_persistent": [],
}
if REPOSITORY:
    html_theme_options |= {"repository_url": REPOSITORY, "use_repository_button": True, "use_issues_button": True}
