"""The code blocks of Markdown pages, and how what they print is compared."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

COMMENT = re.compile(r"<!--\s*(.*?)\s*-->", re.DOTALL)
NOT_RUN, NEEDS, USES, VARY = "not run: ", "needs: ", "uses: ", "numbers vary"
NUMBER = re.compile(r"[+−-]?\d[\d,.]*(?:e[+-]?\d+)?")
RULES = re.compile(r"[━─]+")


@dataclass(frozen=True)
class Block:
    """One code block of a page.

    Marks are HTML comments, which readers do not see, right before a block:

    - `not run: REASON`: no test runs it;
    - `needs: NAME, …`: it needs libraries that only an extra brings along, or `two cores`;
    - `uses: FILE of PAGE`: it needs a file that stands on another page;
    - `numbers vary`: what it shows is compared with every number masked; `numbers vary: … # …` with
      those masked that stand at # in such words; `rows in any order` behind it, with lines sorted.
    """

    place: str
    """Page and line."""
    language: str
    """`indented` for blocks without a fence."""
    file: str
    """The file that it is the content of, or nothing."""
    text: str
    marks: tuple[str, ...]

    @property
    def why_not_run(self) -> str:
        """The reason why no test runs it, or nothing."""
        return next((m.removeprefix(NOT_RUN) for m in self.marks if m.startswith(NOT_RUN)), "")

    @property
    def needs(self) -> list[str]:
        """What it needs besides what every installation has."""
        named = [mark.removeprefix(NEEDS) for mark in self.marks if mark.startswith(NEEDS)]
        return [name for text in named for name in text.split(", ")]

    @property
    def uses(self) -> list[tuple[str, str]]:
        """The files of other pages that it needs, and these pages."""
        named = [mark.removeprefix(USES) for mark in self.marks if mark.startswith(USES)]
        return [(file, page) for file, _, page in (text.partition(" of ") for text in named)]

    def shows(self, printed: str, shown: str) -> bool:
        """Whether a page that shows `shown` tells what was `printed`.

        `…` at the end of a line stands for the rest of that line, alone on a line for any lines.
        """
        printed, shown = (re.sub(r"[ \t]+\n", "\n", text) for text in (printed, shown))
        mark = next((mark for mark in self.marks if mark.startswith(VARY)), None)
        if mark is not None:
            words, _, order = mark.removeprefix(VARY).removeprefix(": ").partition(", rows")
            printed, shown = masked(printed, words), masked(shown, words)
            if order:
                printed, shown = ("".join(sorted(x.splitlines(True))) for x in (printed, shown))
        return re.fullmatch(pattern(shown), printed) is not None


def masked(text: str, words: str = "") -> str:
    """Return a text with # for every number, whatever its length does to the columns of tables.

    With `words`, only those numbers become # that stand in such words at the place of a #.
    """
    if words:
        among = NUMBER.pattern.join(map(re.escape, words.split("#")))
        return re.sub(among, words, text)
    text = RULES.sub("─", NUMBER.sub("#", text))
    return re.sub(r"[ \t]+", " ", text)


def pattern(shown: str) -> str:
    """Return the regular expression of what a page shows."""
    lines = []
    for line in shown.splitlines(keepends=True):
        if line.strip() == "…":
            lines.append(r"(?:.*\n)*")
        elif line.endswith("…\n"):
            lines.append(re.escape(line[:-2]) + r".*\n")
        else:
            lines.append(re.escape(line))
    return "".join(lines)


def blocks_of(page: Path) -> list[Block]:
    """Return the code blocks of a page, in order."""
    found, marks = [], []
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        if token.type == "html_block":
            marks += COMMENT.findall(token.content)
        elif token.type in ("fence", "code_block"):
            language, _, file = (token.info or "indented").partition(" ")
            place = f"{page.name}:{token.map[0] + 1}"
            found.append(Block(place, language, file, token.content, tuple(marks)))
            marks = []
        elif token.content:
            marks = []
    return found
