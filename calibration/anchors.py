"""How fast the machine is now: a few placements of the calibration, run again.

Machines that others share drift: the same placements took 20 % more or 18 % less a minute later,
on all CPU devices nearly alike. No simulator can know that, so whoever compares it with a real
machine has to tell what the machine does now from what the simulator says wrongly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np

from dynpartition.calibration.heldout import input_id
from dynpartition.calibration.jobs import MeasuredJob
from dynpartition.errors import ProfileError
from dynpartition.models import ModelInput
from dynpartition.profile import Profile
from dynpartition.sim.perturb import rescaled

PER_DEVICE = 4
"""Anchors of each device: the longest that calibration has run on it alone, task by task."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """An input that calibration has run on one device, a launch per task in topological order."""

    input: str
    """Its id."""
    device: str
    typical_ns: Annotated[float, msgspec.Meta(gt=0)]
    """What it took."""


def anchors_among(jobs: Sequence[MeasuredJob]) -> list[Anchor]:
    """Return the anchors of measured placements."""
    found: dict[str, list[Anchor]] = defaultdict(list)
    for job in jobs:
        outcome = job.outcomes[0][0]
        devices = {launch.device for launch in outcome.plan.launches}
        if len(devices) == 1 and len(outcome.plan.launches) == len(outcome.graph):
            (device,) = devices
            found[device].append(Anchor(input_id(job.item), device, job.typical_ns()))
    return [
        anchor
        for own in found.values()
        for anchor in sorted(own, key=lambda anchor: -anchor.typical_ns)[:PER_DEVICE]
    ]


def as_plain(anchors: Iterable[Anchor]) -> list[dict[str, object]]:
    """Return anchors as they stand in a profile file."""
    return [
        {"input": one.input, "device": one.device, "typical_ns": round(one.typical_ns)}
        for one in anchors
    ]


def anchors_of(profile: Profile, inputs: Iterable[ModelInput]) -> list[tuple[ModelInput, Anchor]]:
    """Return the anchors of a profile whose inputs are among `inputs`; [] where it has none.

    Raises ProfileError for an anchor that cannot be one.
    """
    rows = profile.provenance.get("anchors", [])
    if not isinstance(rows, list):
        raise ProfileError(
            "provenance.anchors is no list; take it out of the profile, or calibrate"
        )
    known = {input_id(item): item for item in inputs}
    anchors = [_anchor(profile, number, row) for number, row in enumerate(rows)]
    return [(known[anchor.input], anchor) for anchor in anchors if anchor.input in known]


def _anchor(profile: Profile, number: int, row: object) -> Anchor:
    try:
        anchor = msgspec.convert(row, Anchor)
    except msgspec.ValidationError as error:
        place = f"provenance.anchors[{number}]"
        raise ProfileError(f"{place}: {error}; take it out, or calibrate again") from error
    profile.cluster.index(anchor.device, place=f"provenance.anchors[{number}]")
    return anchor


def paces(measured: Iterable[tuple[Anchor, float]]) -> dict[str, float]:
    """Return, by device, how much longer its anchors take now, on geometric average.

    `measured`: anchors and what each takes now, in ns.
    """
    logs: dict[str, list[float]] = defaultdict(list)
    for anchor, now_ns in measured:
        logs[anchor.device].append(float(np.log(now_ns / anchor.typical_ns)))
    return {device: float(np.exp(np.mean(row))) for device, row in logs.items()}


def at_pace(profile: Profile, factors: Mapping[str, float]) -> Profile:
    """Return `profile` with all that a device does taking `factors[device]` times as long.

    Links, hand-offs and what else belongs to no single device stay as they are.
    """
    if not factors:
        return profile

    def factor(name: str) -> float:
        if name.startswith("links/") or name.endswith("/bandwidth"):
            return 1.0
        own = [d for d in factors if f"/{d}/" in f"{name}/"]
        return factors[max(own, key=len)] if own else 1.0

    return rescaled(profile, factor)
