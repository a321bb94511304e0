"""What every verb is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Verb(ABC):
    """One command; its fields are its options, its docstring is its help."""

    json: Path | None = None
    """Where the result is written, as JSON."""
    seed: int = 0
    """Seed of everything random; the same seed gives the same result."""

    @abstractmethod
    def execute(self) -> None:
        """Do it: print a short summary, and write the result to `json` where given.

        Raises DynPartitionError for whatever the user can put right.
        """
