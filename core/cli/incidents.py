"""What the command line says of slowed and lost devices: `cuda:0@5ms:0.5`, `cuda:0@5ms`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dynpartition.conditions import Loss, Slowdown
from dynpartition.errors import UsageError

TIME = r"([0-9]{1,15})(ns|us|ms|s)"
"""Pattern of a time with its unit, in two groups."""

_UNIT_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_SLOW = re.compile(rf"(.+)@{TIME}:([0-9.eE+-]{{1,20}})")
_LOSE = re.compile(rf"(.+)@{TIME}")


def parse_slowdowns(texts: Sequence[str]) -> tuple[Slowdown, ...]:
    """Return the slowdowns that DEVICE@TIME:SPEED texts stand for."""
    return tuple(_slowdown(text) for text in texts)


def parse_losses(texts: Sequence[str]) -> tuple[Loss, ...]:
    """Return the losses that DEVICE@TIME texts stand for."""
    return tuple(_loss(text) for text in texts)


def time_ns(number: str, unit: str) -> int:
    """Return a time in ns; the words are what the groups of TIME match."""
    return int(number) * _UNIT_NS[unit]


def _slowdown(text: str) -> Slowdown:
    match = _SLOW.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--slow {text}: write DEVICE@TIME:SPEED with a unit (ns, us, ms, s),"
            " as in cuda:0@5ms:0.5"
        )
    try:
        speed = float(match[4])
    except ValueError:
        raise UsageError(f"--slow {text}: {match[4]!r} is no speed; 0.5 is half") from None
    return Slowdown(match[1], time_ns(match[2], match[3]), speed)


def _loss(text: str) -> Loss:
    match = _LOSE.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--lose {text}: write DEVICE@TIME with a unit (ns, us, ms, s), as in cuda:0@5ms"
        )
    return Loss(match[1], time_ns(match[2], match[3]))
