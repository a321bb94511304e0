"""What the command line says of slowed devices: `cuda:0@5ms:0.5`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dynpartition.conditions import Slowdown
from dynpartition.errors import UsageError

_UNIT_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_SLOW = re.compile(r"(.+)@([0-9]{1,15})(ns|us|ms|s):([0-9.eE+-]{1,20})")


def parse_slowdowns(texts: Sequence[str]) -> tuple[Slowdown, ...]:
    """Return the slowdowns that DEVICE@TIME:SPEED texts stand for."""
    return tuple(_slowdown(text) for text in texts)


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
    return Slowdown(match[1], int(match[2]) * _UNIT_NS[match[3]], speed)
