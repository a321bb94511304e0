"""Configurations of models: frozen dataclasses of positive integers, checked when made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TypeVar

from dynpartition.errors import ModelError, did_you_mean

DIMENSION_MAX = 65_536
"""Largest value of any field: what is beyond it is a slip, not a model."""


@dataclass(frozen=True)
class ModelConfig:
    """Parent of all configurations. Every field is an int from 1 to `DIMENSION_MAX`."""

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_dimension(type(self).__name__, field.name, getattr(self, field.name))

    def plain(self) -> dict[str, int]:
        """Return the configuration as plain JSON values."""
        return asdict(self)


ConfigT = TypeVar("ConfigT", bound=ModelConfig)


def config_from(kind: type[ConfigT], given: Mapping[str, object] | None) -> ConfigT:
    """Return the configuration with the `given` fields; the others keep their defaults.

    Raises ModelError for an unknown field or an unusable value.
    """
    known = [field.name for field in fields(kind)]
    for name in given or {}:
        if name not in known:
            remedy = did_you_mean(str(name), known)
            raise ModelError(f"{kind.__name__} has no field {name!r}; {remedy}")
    return kind(**(given or {}))


def _check_dimension(config: str, name: str, value: object) -> None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or not 1 <= value <= DIMENSION_MAX:  # type: ignore[operator]
        raise ModelError(
            f"{config}: {name} is {value!r}; give a whole number from 1 to {DIMENSION_MAX}"
        )
