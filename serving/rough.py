"""A profile for want of one: cells cost what they take on the host, links are guessed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dynpartition.cluster import Device
from dynpartition.errors import ProfileError
from dynpartition.hardware.devices import uncalibrated_profile
from dynpartition.models import DynamicModel
from dynpartition.models.interpreter import Interpreter
from dynpartition.profile import Curve, Profile

SAMPLES_MAX = 8
"""So many samples are looked at."""


def rough_profile(
    model: DynamicModel[Any], devices: Sequence[Device], samples: Sequence[Any]
) -> Profile:
    """Return a profile in which every CPU device runs cells as fast as the calling thread does.

    Slowed devices are as much slower. Cells that no sample calls cost as much as the median one.
    Raises ProfileError for other devices, of which that says nothing.
    """
    others = [device.name for device in devices if device.kind != "cpu"]
    if others:
        raise ProfileError(
            f"nothing is known of {others[0]}; measure it with dynpartition calibrate --json FILE"
            " and give Runtime(…, profile=…)"
        )
    measured = _measured_ns(model, samples[:SAMPLES_MAX])
    usual_ns = float(np.median([*measured.values()]))
    costs = {
        cell: {
            device.name: Curve((1,), (max(1, round(measured.get(cell, usual_ns) / device.speed)),))
            for device in devices
        }
        for cell in model.cells
    }
    return replace(uncalibrated_profile(tuple(devices)), cells=costs)


def _measured_ns(model: DynamicModel[Any], samples: Sequence[Any]) -> dict[str, float]:
    """Return the median time of one call of every cell that is called."""
    taken: dict[str, list[int]] = {}
    for _ in range(2):  # what is called for the first time takes longer
        taken.clear()
        for sample in samples:
            interpreter = Interpreter(model.cells, model.start(sample))
            for number, task in enumerate(interpreter.tasks):  # the list grows at reveals
                begin_ns = time.perf_counter_ns()
                interpreter.compute([number])
                taken.setdefault(task.cell, []).append(time.perf_counter_ns() - begin_ns)
                if task.reveals:
                    interpreter.expand(number)
    return {cell: float(np.median(ns)) for cell, ns in taken.items()}
