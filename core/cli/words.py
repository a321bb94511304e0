"""Text for the terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Escape what would move a terminal's cursor or change its colours."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """Fold line breaks and other white space, and escape what is not printable."""
    return printable(" ".join(text.split()))
