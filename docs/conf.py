"""The documentation site: Sphinx, MyST Markdown, executed notebooks, the furo theme.

    sphinx-build -W --keep-going -n docs build/docs

Nothing is fetched while it is built or read: no intersphinx inventories, no fonts, no scripts from elsewhere.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from forge_pipeline import __version__

sys.path.insert(0, str(Path(__file__).parents[1]))
# Notebooks are executed while the site is built, by this interpreter, in a folder of their own.
os.environ.setdefault("FORGE_HOME", tempfile.mkdtemp(prefix="forge-docs-"))
os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"

project = "Forge Pipeline"
copyright = "2026, the Forge Pipeline contributors; Apache-2.0"
version = release = __version__
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]

myst_enable_extensions = ["deflist", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

nb_execution_mode = "force"
nb_execution_timeout = 120  # seconds a cell
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": False}
autoclass_content = "class"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "code"

nitpicky = True
# Types of Python and of libraries have their documentation elsewhere, and no inventory is fetched. The sections of a
# recipe have the page of the recipe's keys; records are the JSON beside an artefact.
nitpick_ignore_regex = [
    ("py:class", r"(?!forge_pipeline\.).*"),
    ("py:class", r"forge_pipeline\.(config\.\w+\.\w+Section|models\.\w+\.\w+Record)"),
    ("py:exc", r"(?!forge_pipeline\.)\w*(Error|Exception)"),
]

html_theme = "furo"
html_title = f"Forge Pipeline {__version__}"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
copybutton_exclude = ".linenos, .gp, .go"

# Guides of parts that a distribution may leave out: named by the index, listed where they are.
_OPTIONAL = ("automation", "ci", "deployment", "studio")

# Pages that a checkout has beside the site, and where the site shows them.
_OUTSIDE = {"../../benchmarks/README.md": "/reference/benchmarks.md", "../docs/benchmarks/": "/benchmarks/"}


def _links_within(app: Any, docname: str, source: list[str]) -> None:
    """Lead links of the checkout to the same pages of the site."""
    for outside, inside in _OUTSIDE.items():
        source[0] = source[0].replace(f"]({outside}", f"]({inside}")


def _only_present(app: Any, docname: str, source: list[str]) -> None:
    """Leave missing optional guides out of the index; one that is there and is not listed would be a warning."""
    if docname == "index":
        missing = [name for name in _OPTIONAL if not (Path(app.srcdir) / f"{name}.md").is_file()]
        source[0] = "\n".join(line for line in source[0].split("\n") if line not in missing)


def setup(app: Any) -> None:
    app.connect("source-read", _links_within)
    app.connect("source-read", _only_present)
    app.connect("include-read", lambda app, path, docname, source: _links_within(app, docname, source))
