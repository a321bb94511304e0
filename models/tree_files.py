"""Reader of bracketed parse trees: `(2 (1 It) (2 (2 works) (1 .)))`, one tree a line.

Trees are binary and leaves hold one word, as in the Stanford Sentiment Treebank; a node with one
child or more than two is an error. Words such as `-LRB-` are kept as they stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NoReturn

from dynpartition.errors import InputError
from dynpartition.models.trees import ParseTree, TreeBuilder

DEPTH_MAX = 1_000
"""Nested brackets beyond this are an error: treebanks stay below 50."""

LINE_BYTES_MAX = 16 * 2**20
"""A longer line is an error, so that no file can fill the memory."""

LINES_MAX = 1_000_000
"""More lines are an error, so that a file without end stops: treebanks have some ten thousand."""

# ASCII: the treebank has words with a no-break space inside.
_TOKEN = re.compile(r"[()]|[^\s()]+", re.ASCII)
_LABEL = re.compile(r"[0-9]{1,9}")


def read_trees(path: str | Path) -> list[ParseTree]:
    """Return the trees of a file; blank lines do not count.

    Raises InputError, with line and column, for a file that is missing, not UTF-8, without trees,
    or malformed.
    """
    try:
        with Path(path).open("rb") as file:
            trees = [read_tree(text, f"{path}:{line}") for line, text in _lines(file, str(path))]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; check the path") from error
    if not trees:
        raise InputError(f"{path} holds no trees; write one tree a line, as in (1 (2 so) (1 be))")
    return trees


def read_tree(text: str, place: str = "tree") -> ParseTree:
    """Return the tree that one line holds; `place` is how errors name the line."""
    if "\0" in text:
        _fail(place, text.index("\0"), "a NUL byte; give a text file")
    parser = _Parser(place)
    for token in _TOKEN.finditer(text):
        parser.feed(token[0], token.start())
    return parser.finish(len(text.rstrip()))


def _lines(file: BinaryIO, path: str) -> Iterator[tuple[int, str]]:
    for number, raw in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX + 1), b""), start=1):
        if len(raw) > LINE_BYTES_MAX:
            raise InputError(f"{path}:{number}: a line of over 16 MiB; write one tree a line")
        if number > LINES_MAX:
            raise InputError(f"{path} has over {LINES_MAX} lines; split it into smaller files")
        text = _decoded(raw, f"{path}:{number}")
        if text.strip():
            yield number, text


def _decoded(raw: bytes, place: str) -> str:
    try:
        return raw.decode("utf-8-sig" if place.endswith(":1") else "utf-8")
    except UnicodeDecodeError as error:
        _fail(place, error.start, "bytes that are not UTF-8; convert the file to UTF-8")


def _fail(place: str, offset: int, what: str) -> NoReturn:
    raise InputError(f"{place}:{offset + 1}: {what}")


@dataclass(slots=True)
class _Open:
    """A node whose closing bracket has not come yet."""

    offset: int
    label: int | None = None
    word: str = ""
    children: list[int] = field(default_factory=list)


class _Parser:
    """Takes the tokens of one line. Open nodes are a list: no recursion, so no stack to blow."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.builder = TreeBuilder()
        self.open: list[_Open] = []
        self.done = False

    def feed(self, token: str, offset: int) -> None:
        if self.done:
            _fail(self.place, offset, f"{_shown(token)} after the tree; one tree a line")
        if token == "(":
            self._begin(offset)
        elif not self.open:
            _fail(self.place, offset, f"{_shown(token)} outside of a tree; begin with '('")
        elif token == ")":
            self._end(self.open.pop(), offset)
        elif self.open[-1].label is None:
            self.open[-1].label = self._label(token, offset)
        else:
            self._word(self.open[-1], token, offset)

    def finish(self, end: int) -> ParseTree:
        if self.open:
            count, first = len(self.open), self.open[-1].offset + 1
            what = f"{count} brackets still open, the last from column {first}; add {count} ')'"
            _fail(self.place, end, what)
        if not self.done:
            _fail(self.place, end, "no tree; write one, as in (1 (2 so) (1 be))")
        return self.builder.tree()

    def _begin(self, offset: int) -> None:
        if self.open:
            parent = self.open[-1]
            if parent.label is None:
                _fail(self.place, offset, "a bracket where a label is due, as in (2 word)")
            if parent.word:
                _fail(self.place, offset, "a child beside a word; give the word its own node")
            if len(parent.children) == 2:
                _fail(self.place, offset, "a third child; make the tree binary")
        if len(self.open) == DEPTH_MAX:
            _fail(self.place, offset, f"over {DEPTH_MAX} nested brackets; is this a parse tree?")
        self.open.append(_Open(offset))

    def _end(self, node: _Open, offset: int) -> None:
        if node.label is None:
            _fail(self.place, offset, "a node without a label; write (label word)")
        if node.word:
            made = self.builder.leaf(node.label, node.word)
        elif len(node.children) == 2:
            made = self.builder.inner(node.label, node.children[0], node.children[1])
        else:
            has = ("neither word nor children", "one child")[len(node.children)]
            _fail(self.place, offset, f"a node with {has}; give it one word or two children")
        if self.open:
            self.open[-1].children.append(made)
        self.done = not self.open

    def _label(self, token: str, offset: int) -> int:
        if not _LABEL.fullmatch(token):
            _fail(self.place, offset, f"label {_shown(token)}; labels are whole numbers from 0")
        return int(token)

    def _word(self, node: _Open, token: str, offset: int) -> None:
        if node.word or node.children:
            _fail(self.place, offset, f"{_shown(token)} in a node that is full; give it a node")
        node.word = token


def _shown(token: str) -> str:
    return repr(token if len(token) <= 40 else f"{token[:40]}…")
