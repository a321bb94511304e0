"""Calibration: a profile of the local devices from real runs of randomised placements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from dynpartition.calibration import anchors
from dynpartition.calibration.contention import as_plain as contention_as_plain
from dynpartition.calibration.contention import find_pairs, overlaps, with_buses
from dynpartition.calibration.counting import count_work
from dynpartition.calibration.fit import Fitted, fit_cells, fit_profile
from dynpartition.calibration.heldout import Used, used_by
from dynpartition.calibration.identity import identities, sealed
from dynpartition.calibration.jobs import (
    MeasuredJob,
    Progress,
    make_jobs,
    measure_jobs,
    measure_more,
    observations_of,
    told,
)
from dynpartition.calibration.joint import refit
from dynpartition.calibration.movable import job_error, moved_numbers, prior_deviations
from dynpartition.calibration.numbers import as_plain
from dynpartition.calibration.observations import Observations
from dynpartition.calibration.operators import Work, fit_operators
from dynpartition.calibration.probe import Probe, ProbeConfig
from dynpartition.calibration.reaching import cells_of, reaching
from dynpartition.cluster import Cluster, Device
from dynpartition.errors import CalibrationError
from dynpartition.hardware import HardwareBackend
from dynpartition.hardware.backend import GpuLinkKind, Workers
from dynpartition.hardware.devices import elsewhere
from dynpartition.hardware.locking import choose_workers
from dynpartition.hardware.virtual import ClockKind
from dynpartition.models import DynamicModel, ModelInput, generate_inputs
from dynpartition.profile import Curve, Profile

FIT_JOBS, CHECK_JOBS, PROBE_JOBS = 48, 16, 36
"""Placements that numbers are fitted to, and others, of other inputs, that tell how well."""
_CHECK_SHARE = 0.25
_INPUTS_FOR_LOCK = 3
"""So many inputs tell how often each cell is called."""
_SEARCH_SHARE, _SEARCH_LEAST_S = 0.2, 2.0
"""Of the time, at most and besides, for generating inputs that call what the given ones do not."""
_PROBE_SHARE = 0.15
"""Of the time, for shapes and sizes that the model does not have."""


def calibrate(
    model: DynamicModel[Any],
    devices: Sequence[Device],
    inputs: Sequence[ModelInput],
    *,
    seconds: float,
    seed: int = 0,
    clock: ClockKind = "wall",
    workers: Workers = "auto",
    gpu_links: GpuLinkKind = "auto",
    noise: bool = False,
    progress: Progress = lambda share: None,
    provenance: Mapping[str, object] | None = None,
) -> Profile:
    """Return the profile of `devices`, measured for `seconds` while they run `inputs`.

    Randomised placements and each single device are run again and again in random order, so that a
    slow phase of the machine touches all alike. Stamps of their launches and transfers make the
    numbers; then all are re-fitted to the makespans. `workers`, `gpu_links`: see `HardwareBackend`;
    by itself it finds out which workers suit the cells. `noise`: whether simulations of the profile
    scatter as launches did. Raises CalibrationError without inputs, or when a cell or a link was
    not measured often enough.
    """
    if not inputs:
        raise CalibrationError("calibration needs at least one input")
    if not seconds > 0:
        raise CalibrationError(f"calibration time is {seconds} s; give more than 0")
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    search_s = max(_SEARCH_LEAST_S, seconds * _SEARCH_SHARE)
    more, uncalled = reaching(model, inputs, seed=seed, seconds=search_s)
    inputs = [*inputs, *more]
    kind, why = _suiting_workers(workers, devices, inputs)
    options: dict[str, Any] = {"clock": clock, "gpu_links": gpu_links}
    with HardwareBackend(model, devices, workers=kind, **options) as backend:
        cluster = backend.profile.cluster
        fit_inputs, check_inputs = _divided(inputs)
        fit_jobs = make_jobs(fit_inputs, cluster, rng, FIT_JOBS, largest=True)
        check_jobs = make_jobs(check_inputs, cluster, rng, CHECK_JOBS)
        main = _part(progress, 0.0, 1 - _PROBE_SHARE)
        main_s = seconds * (1 - _PROBE_SHARE)
        measure_jobs(backend, [*fit_jobs, *check_jobs], rng, main_s, main)
        measure_more(backend, fit_jobs, main_s)
    probe = _part(progress, 1 - _PROBE_SHARE, 1.0)
    probe_jobs = _probe(devices, cluster, rng, seconds * _PROBE_SHARE, options, probe)
    probed = observations_of(probe_jobs, cluster)
    traces = [outcome.trace for job in probe_jobs for outcome, _ in job.outcomes]
    pairs = find_pairs(cluster, traces)
    cluster = with_buses(cluster, pairs)
    seen = observations_of(fit_jobs, cluster)
    seen.moves += [move._replace(run=-1 - move.run) for move in probed.moves]
    fitted = fit_profile(cluster, seen, observations_of(fit_jobs, cluster, scattered=True))
    again = refit(fitted.profile, told(fit_jobs), prior_deviations(fitted.numbers))
    checked = told(check_jobs)
    error = job_error(again.profile, checked)
    works = count_work(model, inputs)
    story = {
        **(provenance or {}),
        **manner(clock, kind, why, gpu_links),
        "devices": identities(devices),
        "cells": {cell: asdict(work) for cell, work in works.items()},
        "operators": _operators(cluster, fitted, works, probed),
        "contention": contention_as_plain(pairs, overlaps(cluster, traces)),
        "noise": asdict(fitted.noise),
        "held_out_error": error,
        "held_out_noise": float(np.mean([job.spread for job in checked])) if checked else None,
        "left_out": dict(fitted.wrong),
        "uncalled": uncalled,
        "numbers": as_plain(moved_numbers(fitted.numbers, again)),
        "anchors": anchors.as_plain(anchors.anchors_among(fit_jobs)),
        "fitted_to": _used(fit_jobs).as_plain(),
    }
    uncertainty = min(3.0, error or 0.0)
    profile = replace(again.profile, noise=fitted.noise if noise else None)
    return sealed(replace(profile, provenance=story, uncertainty=uncertainty))


def _suiting_workers(
    workers: Workers, devices: Sequence[Device], inputs: Sequence[ModelInput]
) -> tuple[Workers, str]:
    """Return what workers are, and why where it was found out."""
    n_cpus = sum(device.kind == "cpu" for device in devices)
    if workers != "auto" or n_cpus < 2 or elsewhere(devices):
        return ("processes" if workers == "auto" else workers), ""
    choice = choose_workers(inputs[:_INPUTS_FOR_LOCK])
    return choice.workers, str(choice)


def manner(clock: ClockKind, workers: Workers, why: str, gpu_links: GpuLinkKind) -> dict[str, str]:
    """Return how a profile was measured, as backends that are given it look for it."""
    manner: dict[str, str] = {"clock": clock, "workers": workers}
    if why:
        manner["workers_because"] = why
    if gpu_links == "nccl":
        manner["gpu_links"] = gpu_links
    return manner


def _part(progress: Progress, begin: float, end: float) -> Progress:
    return lambda share: progress(begin + share * (end - begin))


def _used(jobs: Sequence[MeasuredJob]) -> Used:
    outcomes = [(job.item, job.outcomes[0][0]) for job in jobs]
    return used_by((item, outcome.graph, outcome.plan) for item, outcome in outcomes)


def _probe(
    devices: Sequence[Device],
    cluster: Cluster,
    rng: np.random.Generator,
    seconds: float,
    options: Mapping[str, Any],
    progress: Progress,
) -> list[MeasuredJob]:
    """Run cells and transfers of many sizes on the same devices."""
    model = Probe(ProbeConfig())
    uncapped = [replace(device, memory_bytes=None) for device in devices]
    with HardwareBackend(model, uncapped, **options) as backend:
        jobs = make_jobs(generate_inputs(model, PROBE_JOBS, seed=0), cluster, rng, PROBE_JOBS)
        measure_jobs(backend, jobs, rng, seconds, progress)
    return jobs


def _operators(
    cluster: Cluster, fitted: Fitted, works: Mapping[str, Work], probed: Observations
) -> dict[str, object]:
    """Return device → its operator model; devices for which too little was measured are missing."""
    probe = Probe(ProbeConfig())
    works = {**works, **count_work(probe, generate_inputs(probe, PROBE_JOBS, seed=0))}
    curves = [fitted.profile.cells, fit_cells(cluster, probed)]
    found: dict[str, object] = {}
    for device in cluster.names:
        points = [
            (cell, works[cell], size, float(ns))
            for cells in curves
            for cell, by_device in cells.items()
            if cell in works and device in by_device
            for size, ns in zip(*_points(by_device[device]), strict=True)
        ]
        model = fit_operators(points)
        if model is not None:
            found[device] = model.as_plain()
    return found


def _points(curve: Curve) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return curve.batch, curve.duration_ns


def _divided(inputs: Sequence[ModelInput]) -> tuple[Sequence[ModelInput], Sequence[ModelInput]]:
    """Return inputs to fit to and, of other content, inputs to check with; none if there is one.

    The former call every cell that any of them does.
    """
    by_content: dict[str, ModelInput] = {item.digest: item for item in inputs}
    different = list(by_content.values())
    n_check = int(len(different) * _CHECK_SHARE)
    fit, check = different[n_check:], different[:n_check]
    called = set[str]().union(*map(cells_of, fit))
    known = [item for item in check if cells_of(item) <= called]
    return [*fit, *(item for item in check if item not in known)], known
