"""Configuration of Sphinx. `make docs` builds the site into build/site."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.util.nodes import make_refnode

import laplex

if TYPE_CHECKING:
    from docutils.nodes import Element, document
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

ROOT = Path(__file__).parents[1]

project = "Laplex"
author = "The Laplex authors"
copyright = "2026, The Laplex authors"  # noqa: A001 (the name that Sphinx reads)
version = release = laplex.__version__

extensions = [
    "breathe",
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx-mathjax-offline",  # formulas are shown without a network, too
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_templates"]
templates_path = ["_templates"]
default_role = "py:obj"

# --- Markdown and notebooks ---
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3  # [text](page.md#heading), as on GitHub
nb_execution_mode = "force"
nb_execution_show_tb = True  # a cell that fails is a warning, and warnings are errors
nb_execution_timeout = 900  # the sanitizers run beside it
nb_merge_streams = True
nb_render_markdown_format = "myst"
smartquotes = False  # --option is two hyphens

# --- Reference ---
autosummary_generate = True
autosummary_ignore_module_all = False
autosummary_filename_map = {  # some disks take names that differ in case for one
    name: f"{name}_function"
    for name in (
        "laplex.cedar.baselines.orthomax",
        "laplex.cedar.metrics.monosemanticity",
        "laplex.early_exit.reliability",
    )
}
autodoc_typehints = "none"  # docstrings have them, and say more
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # the templates list them
breathe_projects = {"laplex": str(ROOT / "build" / "doxygen" / "xml")}
breathe_default_project = "laplex"
breathe_default_members = ("members", "undoc-members")

# --- Appearance ---
html_theme = "pydata_sphinx_theme"
html_title = "Laplex"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_favicon = "_static/logo.svg"
html_sourcelink_suffix = ""  # a notebook that is downloaded can be opened
html_theme_options = {
    "logo": {"text": "Laplex", "image_light": "_static/logo.svg", "image_dark": "_static/logo.svg"},
    "navbar_align": "left",
    "navbar_center": ["navbar-nav"],
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "show_prev_next": True,
    "secondary_sidebar_items": {"**/*": ["page-toc", "sourcelink"], "index": [], "gallery": []},
    "footer_start": ["copyright"],
    "footer_end": [],
    "back_to_top_button": True,
}
html_sidebars = {"index": [], "gallery": []}
pygments_style = "default"


def full_name(env: BuildEnvironment, text: str) -> str | None:
    """The object of the reference that a text names, by its path or by the last part of it.

    Docstrings name classes as their module sees them, and the reference by their public path. A
    name in lower case may be that of a parameter, so it has to be a whole path.
    """
    text = text.removesuffix("()").lstrip(".~")
    objects = env.domains.python_domain.objects
    if text in objects:
        return text
    names = [
        name
        for name, there in objects.items()
        if name.endswith(f".{text}") and not there.aliased  # by the module that defines it
    ]
    return names[0] if len(names) == 1 and text[:1].isupper() else None


def resolve_reference(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: Element
) -> Element | None:
    """Link a name in a docstring that Sphinx does not find by itself."""
    name = full_name(env, node["reftarget"]) if node.get("refdomain") == "py" else None
    return name and python_link(app, env, node["refdoc"], name, contnode)


def python_link(
    app: Sphinx, env: BuildEnvironment, page: str, name: str, content: Element
) -> Element:
    """A link to an object of the reference."""
    there = env.domains.python_domain.objects[name]
    return make_refnode(app.builder, page, there.docname, there.node_id, content, name)


def link_names_in_code(app: Sphinx, doctree: document, page: str) -> None:
    """Link `laplex.Plan` and the like, where a page writes it as code, to the reference."""
    for literal in list(doctree.findall(nodes.literal)):
        inside = isinstance(literal.parent, nodes.reference | nodes.title)
        name = None if inside else full_name(app.env, literal.astext())
        if name and page != app.env.domains.python_domain.objects[name].docname:
            literal.replace_self(python_link(app, app.env, page, name, literal.deepcopy()))


def skip_inherited(
    app: Sphinx, what: str, name: str, member: object, skip: bool, options: object
) -> bool | None:
    """Leave out what a class inherits from another library, and the fields of named tuples."""
    function = getattr(member, "fget", None) or getattr(member, "__func__", member)
    home = getattr(function, "__module__", None) or "laplex"
    routing = name.startswith("set_") and name.endswith("_request")  # made by scikit-learn
    field = str(getattr(member, "__doc__", "")).startswith("Alias for field number")
    return True if routing or field or not home.startswith("laplex") else None


def setup(app: Sphinx) -> None:
    """Connect what Sphinx has no option for."""
    app.connect("missing-reference", resolve_reference)
    app.connect("doctree-resolved", link_names_in_code)
    app.connect("autodoc-skip-member", skip_inherited)
