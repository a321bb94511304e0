"""The numbers of a profile with where each comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

Source = Literal["measured", "fitted", "modelled", "datasheet", "assumed"]
"""`measured`: stamps of it; `fitted`: inferred from stamps of more than it, or from whole runs;
`modelled`: by an operator model, from other cells; `assumed`: nothing here speaks for it."""

_NORMAL_95 = 1.96


@dataclass(frozen=True, slots=True)
class Number:
    """One number of a profile."""

    value: float
    unit: str
    source: Source
    count: int = 0
    """Observations that it rests on."""
    low: float | None = None
    """Lower end of the 95 % interval; None: not known."""
    high: float | None = None
    domain: str = ""
    """For what it holds: where it was measured."""

    @property
    def deviation(self) -> float | None:
        """Relative standard error; None: not known."""
        if self.low is None or self.high is None or self.value <= 0:
            return None
        return (self.high - self.low) / (2 * _NORMAL_95 * self.value)


def measured(
    value: float,
    error: float,
    *,
    count: int,
    unit: str = "ns",
    source: Source = "measured",
    domain: str = "",
) -> Number:
    """Return a number with the interval that follows from its standard error."""
    low, high = max(0.0, value - _NORMAL_95 * error), value + _NORMAL_95 * error
    return Number(value, unit, source, count, low, high, domain)


def as_plain(numbers: Mapping[str, Number]) -> dict[str, object]:
    """Return numbers as they stand in a profile file."""
    return {
        name: {
            key: _rounded(value) for key, value in asdict(number).items() if value not in (None, "")
        }
        for name, number in numbers.items()
    }


def _rounded(value: object) -> object:
    """Six digits are more than any measurement has."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
