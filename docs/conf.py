"""The site: `make docs` builds it of the pages in docs/ and those beside the README, and fails where a link is dead.

The source folder is the repository, so that a link is the same on a forge, in an editor and on the site.
"""

from pathlib import Path
from typing import Any

from tfpipe import __version__

ROOT = Path(__file__).resolve().parent.parent

project = "tfpipe"
version = release = __version__
copyright = "the authors of tfpipe, Apache 2.0"

root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "benchmarks/README.md", "horovod/README.md", "tfpipe/data/embedded/README.md"]
# Sphinx walks whatever is not excluded, environments and runs among them.
_walked = {"docs", "benchmarks", "horovod", "tfpipe"}
exclude_patterns = sorted(entry.name for entry in ROOT.iterdir() if entry.is_dir() and entry.name not in _walked)

extensions = ["myst_parser", "sphinx.ext.napoleon", "autoapi.extension"]

# As a forge reads Markdown: headings are link targets, a block that is only indented has no language.
myst_heading_anchors = 4
highlight_language = "none"
pygments_style = "default"
pygments_dark_style = "monokai"

# What docs/python-api.rst names. Docstrings are read, never imported, so TensorFlow is not needed; single backticks in
# them are code. Reading all of tfpipe takes a minute.
_documented = {
    "config.py", "predict.py", "registry.py", "train.py", "tune.py", "convert/pipeline.py", "core/bundle.py",
    "core/errors.py", "core/signature.py", "data/pack.py", "data/validate.py", "inference/tensors.py",
    "text/tokenizer.py",
}  # fmt: skip
_sources = ROOT / "tfpipe"
autoapi_dirs = [str(_sources)]
autoapi_ignore = [
    str(path)
    for path in _sources.rglob("*.py")
    if path.name != "__init__.py" and str(path.relative_to(_sources)) not in _documented
]
# What they import is not among the files that are read.
suppress_warnings = ["autoapi.python_import_resolution"]
autoapi_generate_api_docs = False
autoapi_add_toctree_entry = False
autosummary_generate = False
napoleon_use_ivar = True
default_role = "literal"
add_module_names = False
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "tfpipe"
html_static_path = ["_static"]
html_css_files = ["site.css"]
templates_path = ["_templates"]
# The root document lies in docs/, the site's address is its folder.
html_additional_pages = {"index": "to-the-first-page.html"}
html_copy_source = False
html_show_sphinx = False


def _show_examples_as_code(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    for number, line in enumerate(lines):
        if line.strip() == "Example:":
            # Google's style has no mark for code; a blank line has to follow that of reStructuredText.
            lines[number : number + 1] = [line.replace("Example:", "Example::"), ""]
            return


def setup(app: Any) -> None:
    """Sphinx calls this."""
    app.connect("autodoc-process-docstring", _show_examples_as_code, priority=100)
