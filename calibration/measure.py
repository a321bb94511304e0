"""Calibration: a profile of the local devices from stamps taken inside real runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dynpartition.calibration.fit import SAMPLES_MIN, fit_profile
from dynpartition.calibration.rollouts import LAUNCH_SIZES, Batched, OneDevice, RandomRollout
from dynpartition.calibration.samples import Samples
from dynpartition.cluster import Device
from dynpartition.contract import Scheduler, drive
from dynpartition.errors import CalibrationError
from dynpartition.hardware import HardwareBackend
from dynpartition.models import DynamicModel, ModelInput
from dynpartition.profile import Profile

Progress = Callable[[float], None]
"""Called with the share that is done, 0…1."""

_WARM_UP_RUNS = 3
_ROLLOUTS_PER_ROUND = 4
_LAUNCH_SHARE = 0.6
_BATCHED_SHARE = 0.5
_PATIENCE = 4  # times the asked duration, where other work keeps taking the cores away


def calibrate(
    model: DynamicModel[Any],
    devices: Sequence[Device],
    inputs: Sequence[ModelInput],
    *,
    seconds: float,
    seed: int = 0,
    progress: Progress = lambda share: None,
    provenance: Mapping[str, object] | None = None,
) -> Profile:
    """Return the profile of `devices`, measured for `seconds` while they run `inputs`.

    Launches are measured while the wait for a core is sampled, what lies between them while it is
    not: reading it takes longer than what lies there. Raises CalibrationError without inputs or
    when a cell was not measured often enough.
    """
    if not inputs:
        raise CalibrationError("calibration needs at least one input")
    if not seconds > 0:
        raise CalibrationError(f"calibration time is {seconds} s; give more than 0")
    samples = Samples()
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    shares = {True: (0.0, _LAUNCH_SHARE), False: (_LAUNCH_SHARE, 1.0)}
    for sampled, (begin, end) in shares.items():
        with HardwareBackend(model, devices, sample_run_delay=sampled) as backend:
            cluster = backend.profile.cluster
            for share in _rounds(backend, inputs, rng, seconds * (end - begin), samples, sampled):
                progress(begin + share * (end - begin))
    return fit_profile(cluster, samples, provenance or {})


def _rounds(
    backend: HardwareBackend,
    inputs: Sequence[ModelInput],
    rng: np.random.Generator,
    seconds: float,
    samples: Samples,
    sampled: bool,
) -> Iterator[float]:
    """Measure for `seconds`; yield the share of it that has passed.

    Rounds of randomised placements and of each single device are interleaved in random order, so
    that a slow phase of the machine touches all alike. Half of them launch tasks one by one, half
    merge them into launches of up to a random size.
    """
    names = backend.profile.cluster.names
    for device in names * _WARM_UP_RUNS:
        _measure(backend, inputs[0], OneDevice(device), Samples(), sampled)
    _capture(backend, inputs[0], sampled)
    started = time.monotonic()
    elapsed = 0.0
    while elapsed < seconds or (
        sampled and samples.fewest() < SAMPLES_MIN and elapsed < _PATIENCE * seconds
    ):
        schedulers: list[Scheduler] = [OneDevice(device) for device in names]
        schedulers += [RandomRollout(rng, len(names)) for _ in range(_ROLLOUTS_PER_ROUND)]
        for index in rng.permutation(len(schedulers)):
            item = inputs[int(rng.integers(len(inputs)))]
            scheduler = schedulers[int(index)]
            if rng.random() < _BATCHED_SHARE:
                scheduler = Batched(scheduler, int(rng.choice(LAUNCH_SIZES[1:])))
            _measure(backend, item, scheduler, samples, sampled)
        elapsed = time.monotonic() - started
        yield min(1.0, elapsed / seconds)


def _capture(backend: HardwareBackend, item: ModelInput, sampled: bool) -> None:
    """Let GPUs capture launches of all sizes: later runs replay them."""
    for device in backend.profile.cluster.devices:
        for size in LAUNCH_SIZES if device.kind == "cuda" else ():
            for _ in range(2):  # asked for in the first run, captured before the second
                _measure(backend, item, Batched(OneDevice(device.name), size), Samples(), sampled)


def _measure(
    backend: HardwareBackend,
    item: ModelInput,
    scheduler: Scheduler,
    samples: Samples,
    sampled: bool,
) -> None:
    """Run one input and add what it measured to `samples`."""
    with backend.open(item) as session:
        outcome = drive(session, scheduler, backend.profile)
        if session.lost:
            raise CalibrationError(
                f"{', '.join(session.lost)} was lost while it was measured; calibrate again"
            )
        if sampled:
            samples.add_launches(outcome.graph, outcome.trace, session.run_delay_ns)
        else:
            host = backend.profile.cluster.host
            samples.add_surroundings(outcome.graph, outcome.trace, host, session.seen_ns)
            dispatches = session.dispatch_ns, session.push_ns
            samples.add_dispatches(outcome.graph, outcome.trace, *dispatches)
