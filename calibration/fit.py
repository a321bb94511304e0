"""From observations to a profile, and to how well each of its numbers is known."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dynpartition.calibration.fit_launches import SAMPLES_MIN, DeviceFit, fit_noise, is_driven
from dynpartition.calibration.fit_links import fit_link, inverse, location
from dynpartition.calibration.numbers import Number, measured
from dynpartition.calibration.observations import Launched, Observations
from dynpartition.cluster import AffineCost, Cluster
from dynpartition.errors import CalibrationError
from dynpartition.hardware.devices import driven_by_workers
from dynpartition.profile import Curve, Dispatch, Noise, Profile


@dataclass(frozen=True)
class Fitted:
    """A profile and what is known of its numbers."""

    profile: Profile
    numbers: Mapping[str, Number]
    """Path in the file → where the number comes from."""
    wrong: Mapping[str, int]
    """What was left out, by name."""
    noise: Noise
    """How much launches vary from run to run."""


def fit_profile(
    cluster: Cluster, observations: Observations, scattered: Observations | None = None
) -> Fitted:
    """Return the profile of `cluster` that the observations speak for.

    `scattered`: of fast and slow runs, for the noise, where `observations` leave slow ones out.
    Raises CalibrationError naming a (cell, device) or a link that was observed too rarely.
    """
    good, wrong = observations.cleaned()
    good.launches = with_late(good)
    _check_cells(good.launches)
    numbers: dict[str, Number] = {}
    devices = {name: DeviceFit(cluster, name, good.launches) for name in cluster.names}
    for device in devices.values():
        numbers |= device.numbers()
    links = tuple(fit_link(link, good.moves, numbers) for link in cluster.links)
    dispatch = _fit_dispatch(cluster, devices, good, numbers)
    cells: dict[str, dict[str, Curve]] = defaultdict(dict)
    for name, device in devices.items():
        for cell, curve in device.curves().items():
            cells[cell][name] = curve
    profile = Profile(replace(cluster, links=links), dict(cells), dispatch)
    if scattered is not None:
        rows = with_late(scattered.cleaned()[0])
        devices = {name: DeviceFit(cluster, name, rows) for name in cluster.names}
    return Fitted(profile, numbers, wrong, fit_noise(devices.values()))


def fit_cells(cluster: Cluster, observations: Observations) -> dict[str, dict[str, Curve]]:
    """Return the batch curves alone: cell → device → curve, of what was observed often enough."""
    good, _ = observations.cleaned()
    good.launches = with_late(good)
    counts = Counter((row.cell, row.device) for row in good.launches)
    often = [row for row in good.launches if counts[row.cell, row.device] >= SAMPLES_MIN]
    cells: dict[str, dict[str, Curve]] = defaultdict(dict)
    for name in cluster.names:
        for cell, curve in DeviceFit(cluster, name, often).curves().items():
            cells[cell][name] = curve
    return dict(cells)


def with_late(seen: Observations) -> list[Launched]:
    """Return the launches, and those that waited for values where the cell has hardly any others.

    What the executor does before a launch is not known of these: they get what is usual there.
    """
    alone = Counter((row.cell, row.device) for row in seen.launches if row.size == 1)
    gaps_ns: dict[str, list[float]] = defaultdict(list)
    for row in seen.launches:
        gaps_ns[row.device].append(row.gap_ns)
    usual_ns = {device: float(np.median(gaps)) for device, gaps in gaps_ns.items()}
    added = [
        row._replace(
            ns=row.ns + usual_ns.get(row.device, 0.0), gap_ns=usual_ns.get(row.device, 0.0)
        )
        for row in seen.late
        if alone[row.cell, row.device] < SAMPLES_MIN
    ]
    return [*seen.launches, *added]


def _check_cells(launches: Sequence[Launched]) -> None:
    alone = Counter((row.cell, row.device) for row in launches if row.size == 1)
    for cell, device in sorted({(row.cell, row.device) for row in launches}):
        if alone[cell, device] < SAMPLES_MIN:
            raise CalibrationError(
                f"cell {cell!r} alone in a launch was measured only {alone[cell, device]} times on"
                f" {device}; {SAMPLES_MIN} are needed: give more --seconds or more inputs"
            )


def _fit_dispatch(
    cluster: Cluster,
    devices: Mapping[str, DeviceFit],
    good: Observations,
    numbers: dict[str, Number],
) -> Dispatch:
    own = [device for name, device in devices.items() if not is_driven(cluster, name)]
    # One CPU device, and GPUs of its host: the caller's thread drives all of them.
    workers = driven_by_workers(cluster.devices, cluster.host_index)
    one_thread = not workers and len(cluster.devices) > 1
    notes: dict[str, list[float]] = defaultdict(list)
    for note in good.notes:
        notes[note.what].append(note.ns)
    times = {what: location(row) for what, row in notes.items() if len(row) >= SAMPLES_MIN}
    sync, decision = _note(times, "sync"), _note(times, "decision")
    start, push = _note(times, "start"), _note(times, "push")
    if decision is not None and start is not None:  # planned, but not yet begun
        gap_ns = float(np.median([row.gap_ns for device in own for row in device.rows] or [0.0]))
        late_ns = max(0.0, start.value - gap_ns)
        error = (decision.deviation or 0) * decision.value
        decision = measured(decision.value + late_ns, error, count=decision.count, source="fitted")
    handoff = _mean([device.surcharge("waited") for device in own])
    found = {"sync_ns": sync, "decision_ns": decision, "h_copy": push}
    found["handoff_ns"] = None if one_thread else handoff
    numbers |= {f"{name}": number for name, number in found.items() if number is not None}
    h = _host_times(times, numbers)
    copies = {name: _copies(own, name, numbers) for name in ("copy_in", "copy_out")}
    first: dict[str, dict[str, int]] = defaultdict(dict)
    for name, device in devices.items():
        for cell, (value, _) in device.first_uses().items():
            first[cell][name] = round(value)
    return Dispatch(
        host_mode="single" if one_thread else "processes",
        h=h or 0,
        h_copy=_amount(push),
        handoff_ns=0 if one_thread else _amount(handoff),
        bookkeeping_ns={device.name: round(device.bookkeeping.value) for device in own},
        copy_in=copies["copy_in"],
        copy_out=copies["copy_out"],
        first_use_ns=dict(first),
        sync_ns=_amount(sync),
        decision_ns=_amount(decision),
    )


def _note(times: Mapping[str, Number], what: str) -> Number | None:
    return times.get(what)


def _amount(number: Number | None) -> int:
    return 0 if number is None else round(number.value)


def _mean(parts: Sequence[Number]) -> Number:
    """Return the mean of one number by device, weighted by observations."""
    counts = np.array([part.count for part in parts], dtype=float)
    if not counts.sum():
        return Number(0, "ns", "assumed")
    shares = counts / counts.sum()
    errors = np.array([(part.deviation or 0) * part.value for part in parts])
    value = float(shares @ [part.value for part in parts])
    error = float(np.sqrt(((shares * errors) ** 2).sum()))
    return measured(value, error, count=int(counts.sum()), source="fitted")


def _host_times(
    times: Mapping[str, Number], numbers: dict[str, Number]
) -> dict[str, dict[str, int]]:
    """Return cell → CUDA device → how long a launch occupies the caller's thread."""
    h: dict[str, dict[str, int]] = defaultdict(dict)
    for what, number in sorted(times.items()):
        if what.startswith("dispatch of "):
            cell, _, device = what.removeprefix("dispatch of ").rpartition(" on ")
            h[cell][device] = round(number.value)
            numbers[f"h/{cell}/{device}"] = number
    return dict(h)


def _copies(
    own: Sequence[DeviceFit], name: str, numbers: dict[str, Number]
) -> dict[str, AffineCost]:
    """Return device → what one remote input, or output, adds to a launch."""
    costs: dict[str, AffineCost] = {}
    for device in own:
        each = device.surcharge("copies_in" if name == "copy_in" else "copies_out")
        per_byte = device.surcharge("bytes_in") if name == "copy_in" else Number(0, "ns", "fitted")
        numbers[f"{name}/{device.name}/latency"] = each
        if each.value or per_byte.value:
            bandwidth = inverse(per_byte).value
            costs[device.name] = AffineCost(round(each.value), round(bandwidth))
            numbers[f"{name}/{device.name}/bandwidth"] = inverse(per_byte)
    return costs
