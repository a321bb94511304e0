"""HTML and SVG text: elements that escape what is put into them, and numbers for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from math import floor, log10

NO_VALUE = "–"
_VOID = frozenset({"meta", "br", "hr", "rect", "line", "circle", "path", "polyline"})
_SVG_LEAF = frozenset({"rect", "line", "circle", "path", "polyline"})


class Markup(str):
    """Text that is HTML already; every other string is escaped when it becomes a child."""

    __slots__ = ()


Child = str | None


def tag(name: str, /, *children: Child, **attributes: str | int | float | None) -> Markup:
    """Return an element; `class_` and `data_x` become `class` and `data-x`, None is left out."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID and not children:
        return Markup(f"<{name}{shown}{'/' if name in _SVG_LEAF else ''}>")
    return Markup(f"<{name}{shown}>{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """Return the children one after the other, escaped unless they are Markup."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else escape(child)
            for child in children
            if child is not None
        )
    )


def table(
    heads: Iterable[str], rows: Iterable[Sequence[Child]], numbers: str, best: int = -1
) -> Markup:
    """Return a table; `numbers` has an `r` for each column to align right, `best` a bold row."""
    kinds = ["number" if letter == "r" else None for letter in numbers]
    head = [tag("th", text, class_=kind) for text, kind in zip(heads, kinds, strict=True)]
    body = [
        tag(
            "tr",
            *(tag("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)),
            class_="best" if number == best else None,
        )
        for number, row in enumerate(rows)
    ]
    return tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body))


def significant(value: float, digits: int = 3) -> str:
    """Return `value` with that many significant digits, never in scientific notation."""
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - floor(log10(abs(value))))
    return f"{value:,.{decimals}f}"


def duration(ns: float) -> str:
    """Return a time with its unit: `1.23 ms`."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if abs(ns) >= size:
            return f"{significant(ns / size)} {unit}"
    return f"{significant(ns)} ns"


def seconds(value: float) -> str:
    """Return a long time: `4.2 s` or `3 min 07 s`."""
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s"


def size(n_bytes: float) -> str:
    """Return a number of bytes with its unit, powers of 1000: `1.20 MB`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            return f"{significant(n_bytes / factor)} {unit}"
    return f"{n_bytes:.0f} B"


def percent(share: float, *, signed: bool = False) -> str:
    """Return a share as percent, one decimal: `1.8 %`."""
    sign = "+" if signed else ""
    return f"{share * 100:{sign}.1f} %".replace("-", "−")


def count(n: int, noun: str, plural: str = "") -> str:
    """Return `1 task` or `3 tasks`."""
    return f"{n:,} {noun if n == 1 else plural or f'{noun}s'}"


def nice_step(span: float, ticks_max: int) -> float:
    """Return the smallest step of 1, 2 or 5 times a power of ten with few enough ticks."""
    power: float = 10.0 ** floor(log10(span / ticks_max))
    return next(m * power for m in (1, 2, 5, 10, 20) if span / (m * power) <= ticks_max)
