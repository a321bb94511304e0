"""Configurations of models: frozen dataclasses of positive integers, checked when made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

import torch

from dynpartition.errors import ModelError, did_you_mean

DIMENSION_MAX = 65_536
"""Largest value of any field: what is beyond it is a slip, not a model."""

_DTYPES = {32: torch.float32, 64: torch.float64}


@dataclass(frozen=True)
class ModelConfig:
    """Parent of all configurations. Every field is an int from 1 to `DIMENSION_MAX`."""

    float_bits: int = field(default=32, kw_only=True)
    """Size of the numbers that the model computes with: 32 or 64."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            _check_dimension(type(self).__name__, entry.name, getattr(self, entry.name))
        if self.float_bits not in _DTYPES:
            raise ModelError(
                f"{type(self).__name__}: float_bits is {self.float_bits}; give 32 or 64"
            )

    @property
    def dtype(self) -> torch.dtype:
        """The type of weights, inputs and outputs."""
        return _DTYPES[self.float_bits]

    def plain(self) -> dict[str, int]:
        """Return the configuration as plain JSON values."""
        return asdict(self)


ConfigT = TypeVar("ConfigT", bound=ModelConfig)


def config_from(kind: type[ConfigT], given: Mapping[str, object] | None) -> ConfigT:
    """Return the configuration with the `given` fields; the others keep their defaults.

    Raises ModelError for an unknown field or an unusable value.
    """
    known = [entry.name for entry in fields(kind)]
    for name in given or {}:
        if name not in known:
            remedy = did_you_mean(str(name), known)
            raise ModelError(f"{kind.__name__} has no field {name!r}; {remedy}")
    return kind(**dict[str, Any](given or {}))


def _check_dimension(config: str, name: str, value: object) -> None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or not 1 <= value <= DIMENSION_MAX:  # type: ignore[operator]
        raise ModelError(
            f"{config}: {name} is {value!r}; give a whole number from 1 to {DIMENSION_MAX}"
        )
