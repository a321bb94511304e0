"""How Sphinx builds these pages: `python -m sphinx -W docs build/docs`, without a network.

The navigation is what `index.md` links to, section by section and in its order. Pages that it does
not mention come last, so a new page is never lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FOLDER = Path(__file__).parent

project = "dynpartition"
release = metadata.version(project)
copyright = "the dynpartition authors, Apache-2.0"
html_title = f"{project} {release}"

extensions = ["myst_parser"]
nitpicky = True
myst_heading_anchors = 4
suppress_warnings = ["misc.highlighting_failure"]  # JSON with … in it

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_sourcelink = False


def sections(index: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the headings of the front page and the pages that are first linked below each."""
    seen = {"index"}
    for part in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        linked = dict.fromkeys(re.findall(r"\]\(([\w-]+)\.md\)", part))
        pages = [page for page in linked if page not in seen]
        seen |= linked.keys()
        if pages:
            yield part.partition("\n")[0], pages
    rest = sorted(path.stem for path in FOLDER.glob("*.md") if path.stem not in seen)
    if rest:
        yield "More", rest


def add_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    """Append the navigation to the front page, which stays plain Markdown itself."""
    if page != "index":
        return
    for caption, pages in sections(source[0]):
        lines = ["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""]
        source[0] += "\n".join(lines)


def setup(app: Sphinx) -> None:
    """Let Sphinx call `add_navigation`."""
    app.connect("source-read", add_navigation)
