"""Inputs that call the cells which the given ones do not: exits that are rarely taken, say."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from dynpartition.errors import InputError
from dynpartition.models import DynamicModel, ModelInput
from dynpartition.models.capturing.cells import GLUE
from dynpartition.models.splitting import part_of

SEARCHED_MAX = 4000
"""So many more inputs are generated at most."""
_SEARCHED_FOR_GLUE = 200
"""Many captured models have no glue in tasks of its own."""
_PORTION = 50
_SEED = 0x5EA5C
"""Samples from here on are not those that commands generate for small seeds."""


def cells_of(item: ModelInput) -> set[str]:
    """Return the names of the cells that an input calls."""
    cells = item.graph.cells
    return {cells[number].name for number in set(item.graph.cell_of.tolist())}


def uncalled(model: DynamicModel[Any], inputs: Sequence[ModelInput]) -> list[str]:
    """Return the cells that none of `inputs` calls, in the model's order."""
    called = set[str]().union(*map(cells_of, inputs))
    return [cell for cell in model.cells if cell not in called]


def reaching(
    model: DynamicModel[Any], inputs: Sequence[ModelInput], *, seed: int, seconds: float
) -> tuple[list[ModelInput], list[str]]:
    """Return more inputs, which call cells that `inputs` do not, and the cells still uncalled.

    They are generated and belong to the training part; the search ends after `seconds`, or when
    thousands have been looked at. Models that generate no samples get none.
    """
    missing, found = set(uncalled(model, inputs)), list[ModelInput]()
    end_s = time.monotonic() + seconds
    most = SEARCHED_MAX if missing - {GLUE} else _SEARCHED_FOR_GLUE
    for item in islice(_generated(model, seed), most if missing else 0):
        called = cells_of(item) & missing
        if called:
            found.append(item)
            missing -= called
        if not missing or time.monotonic() > end_s:
            break
    return found, [cell for cell in model.cells if cell in missing]


def _generated(model: DynamicModel[Any], seed: int) -> Iterator[ModelInput]:
    for portion in range(SEARCHED_MAX // _PORTION):
        try:
            samples = model.samples(_PORTION, _SEED + seed * SEARCHED_MAX + portion)
        except InputError:
            return
        inputs = (ModelInput(model, sample) for sample in samples)
        yield from (item for item in inputs if part_of(item.digest) == "train")
