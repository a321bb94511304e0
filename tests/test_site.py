"""The documentation builds as a site without a warning, and its pages need no network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FETCHED = re.compile(
    r"<(?:script|link|img|iframe|source|object|embed)\b[^>]*\b(?:src|href|data)=.(?:https?:)?//"
    r"|(?:url\(|@import)\s*['\"]?(?:https?:)?//"
)
"""What browsers fetch by themselves; links to follow are not among it."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for library in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(library, reason=f"{library}, of the extra docs, is not installed")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", f"{out}.cache"]
    ran = subprocess.run(
        [*command, str(DOCS), str(out)], capture_output=True, encoding="utf-8", timeout=240
    )
    assert ran.returncode == 0, ran.stderr
    return out


def test_every_page_is_built_and_in_the_navigation(site: Path) -> None:
    navigation = (site / "index.html").read_text(encoding="utf-8")
    linked = set(re.findall(r'class="reference internal" href="([\w-]+)\.html"', navigation))
    assert linked >= {page.stem for page in DOCS.glob("*.md")} - {"index"}


def test_pages_fetch_nothing_from_the_network(site: Path) -> None:
    files = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    assert files
    assert [path.name for path in files if FETCHED.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("text", "is_fetched"),
    [
        ('<script src="https://cdn.example/x.js">', True),
        ("<link rel='stylesheet' href='//fonts.example/css'>", True),
        ("@import 'https://fonts.example/css'", True),
        ("background: url(https://example/x.png)", True),
        ('<a href="https://example/">', False),
        ('<img src="_images/timeline.png">', False),
        ("url('data:image/svg+xml;<svg xmlns=\"http://www.w3.org/2000/svg\">')", False),
    ],
)
def test_what_is_fetched_is_noticed(text: str, is_fetched: bool) -> None:
    assert bool(FETCHED.search(text)) is is_fetched
