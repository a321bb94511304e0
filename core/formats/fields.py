"""The kinds of value that files hold, with their bounds."""

from __future__ import annotations

from typing import Annotated

import msgspec

from dynpartition.graph import VALUE_MAX

Name = Annotated[str, msgspec.Meta(min_length=1)]
"""Name of a cell, device or resource."""

Amount = Annotated[int, msgspec.Meta(ge=0, le=VALUE_MAX)]
"""Bytes, nanoseconds, or an id."""

Positive = Annotated[int, msgspec.Meta(ge=1, le=VALUE_MAX)]
"""A count or a rate."""

Watts = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
"""Electrical power."""

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
"""A part of a whole."""

Sigma = Annotated[float, msgspec.Meta(ge=0, le=3)]
"""Standard deviation of a logarithm."""

Speed = Annotated[float, msgspec.Meta(gt=0, le=1)]
"""Speed of a slowed device, relative to the real one."""


class Record(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Base of everything that files hold; fields without a default are required."""
