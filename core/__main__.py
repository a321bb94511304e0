"""`dynpartition` and `python -m dynpartition`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dynpartition.cli.frame import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 2 after one line on bad input, or 130 when interrupted."""
    return run_command(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
