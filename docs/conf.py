"""How Sphinx builds these pages: Markdown, a reference from the docstrings, and `llms.txt` beside them."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from tools import page_list  # noqa: E402 - found by the line above

project = "stepwarden"
author = copyright = "The stepwarden authors"  # noqa: A001 - Sphinx's name for it
release = version = version("stepwarden")
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"stepwarden {release}"
html_copy_source = False
html_show_sphinx = False

# A link to a heading is what it is on any Markdown page: `page.md#the-heading`.
myst_heading_anchors = 4

# What stands in single backticks in a docstring becomes a link where the reference has it.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

# A name of ours that leads nowhere is a mistake. Names of others are not looked up, since a build uses no network;
# and a docstring may set what is no name, such as a parameter, in backticks.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!stepwarden).*"),
    ("py:.*", r"stepwarden\.(.*\.)?_.*"),
]


def find_public_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.Element) -> Any:
    """Lead from where a thing is made, `stepwarden.core._budget.Budget`, to where users find it."""
    if node.get("refdomain") != "py":
        return None
    name = node["reftarget"].rpartition(".")[2]
    domain = env.domains["py"]
    for place in ("stepwarden", "stepwarden.host", "stepwarden.testing"):
        if f"{place}.{name}" in domain.objects:
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", f"{place}.{name}", node, text)
    return None


def add_navigation(_: Sphinx, page: str, source: list[str]) -> None:
    """Let the page list of the index be the site's navigation, too."""
    if page == "index":
        source[0] += page_list.navigation(HERE)


def write_llms_txt(app: Sphinx, error: Exception | None) -> None:
    """Put `llms.txt`, and the Markdown that it leads to, beside the pages of the site."""
    if error is None and app.builder.name == "html":
        page_list.write(HERE, Path(app.outdir))


def forget_overloads() -> None:
    """Show the decorators with the signature that the reference gives them, not with those for type checkers."""
    for name in ("step", "persona", "tool"):
        analyzer = ModuleAnalyzer.for_module(f"stepwarden.core._{name}")
        analyzer.analyze()
        analyzer.overloads.pop(name)


def setup(app: Sphinx) -> None:
    """Be called by Sphinx before it builds."""
    forget_overloads()
    app.connect("source-read", add_navigation)
    app.connect("missing-reference", find_public_name)
    app.connect("build-finished", write_llms_txt)
