"""Which inputs are for training and which are held out, decided by content alone.

Every command computes the same split without sharing a file, and two identical inputs are never on
both sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

from dynpartition.errors import InputError
from dynpartition.models.model import ModelInput

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")

_TRAIN_SHARE, _VALIDATION_SHARE = 0.6, 0.15


def part_of(digest: str) -> Part:
    """Return the part that an input with this content digest belongs to."""
    hashed = hashlib.sha256(f"dynpartition-split:{digest}".encode()).digest()
    position = int.from_bytes(hashed[:8], "big") / 2**64
    if position < _TRAIN_SHARE:
        return "train"
    return "validation" if position < _TRAIN_SHARE + _VALIDATION_SHARE else "test"


def select(inputs: Sequence[ModelInput], part: Part) -> list[ModelInput]:
    """Return the inputs of one part, in order; InputError when there is none."""
    chosen = [item for item in inputs if part_of(item.digest) == part]
    if not chosen:
        raise InputError(
            f"none of the {len(inputs)} inputs falls into the {part} part; give more inputs"
        )
    return chosen
