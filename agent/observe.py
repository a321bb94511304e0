"""Observations: features of every candidate, a (ready task, device) pair.

B episodes, R ready tasks shown, D devices, K = R·D candidates, F features. Times are divided by the
graph's mean task cost and most are compressed by log(1 + x), so that graphs of any size, machines
of any speed and any number of devices look alike. No feature is a task's or a device's number.
Everything comes from the revealed graph, the profile and the plan so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynpartition.agent.task_table import BELOW, MOVE, RANK, READERS, Columns, TaskTable
from dynpartition.types import BoolArray, FloatArray

FEATURES = (
    "wait",  # idle time of the device before the task starts
    "start_lag",  # start behind the earliest start among the candidates
    "duration",
    "slower",  # log of duration over the fastest device's
    "finish_lag",  # finish behind the earliest finish of this task
    "finishes_first",  # 1 where this device finishes the task first
    "rise",  # by how much the makespan grows
    "rank",  # upward rank over the largest of the graph
    "rank_lead",  # upward rank over the largest among the candidates
    "path",  # log of (finish + rank below) over the longest such path among the candidates
    "load",  # the device's free time minus the mean of the devices
    "work_left",  # share of the work not placed yet
    "move_in",  # wait for inputs compared with the device where they are first
    "local_inputs",  # share of the inputs made on the device
    "move_out",  # mean transfer time of the output
    "readers",
    "near_here",  # of the placed tasks that the next reader depends on, the share on the device
    "far_here",  # the same three readers up
    "near_placed",  # share of what the next reader depends on that is placed
    "slowness",  # log of the device's mean duration over the fastest
)
"""Names of the features, in order."""

FEATURE_VERSION = 1
"""Grows whenever a feature changes its meaning; checkpoints of other versions are refused."""

BOUND = 8.0
"""Features are clipped to ±BOUND."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Observation:
    """What a policy sees. `features`: float32 (B, K, F), `mask`: int8 (B, K), 1 = legal."""

    features: FloatArray
    mask: npt.NDArray[np.int8]


class Observer:
    """Turns the tables of several episodes into one batch of observations."""

    def __init__(self, n_devices: int, max_ready: int = 16) -> None:
        self.columns = Columns(n_devices)
        self.max_ready = max_ready
        self.n_candidates = max_ready * n_devices

    def observe(self, tables: Sequence[TaskTable]) -> tuple[Observation, list[list[int]]]:
        """Return the batch and, per episode, the tasks shown: candidate r·D + d is (task r, d)."""
        n_batch, n_devices = len(tables), self.columns.n_devices
        shape = (n_batch, self.max_ready)
        raw = _Raw(
            rows=np.zeros((*shape, self.columns.width)),
            near=np.zeros((*shape, n_devices)),
            far=np.zeros((*shape, n_devices)),
            near_size=np.ones(shape),
            free=np.zeros((n_batch, 1, n_devices)),
            slowness=np.zeros((n_batch, 1, n_devices)),
            scalars=np.ones((4, n_batch, 1, 1)),
        )
        shown = [raw.fill(b, table, self.max_ready) for b, table in enumerate(tables)]
        return self._finish(raw), shown

    def _finish(self, raw: _Raw) -> Observation:
        legal = raw.rows[..., self.columns.legal] > 0  # (B, R, D)
        stacked = np.stack(_features(raw, self.columns, legal), axis=-1, dtype=np.float32)
        stacked *= legal[..., None]
        np.clip(stacked, -BOUND, BOUND, out=stacked)
        n_batch = len(stacked)
        features = stacked.reshape(n_batch, self.n_candidates, len(FEATURES))
        return Observation(features, legal.reshape(n_batch, -1).astype(np.int8))


@dataclass
class _Raw:
    """Gathered rows of B episodes; `scalars`: unit_ns, makespan_ns, largest rank, work left."""

    rows: Floats  # (B, R, C)
    near: Floats  # (B, R, D)
    far: Floats  # (B, R, D)
    near_size: Floats  # (B, R)
    free: Floats  # (B, 1, D)
    slowness: Floats  # (B, 1, D)
    scalars: Floats  # (4, B, 1, 1)

    def fill(self, b: int, table: TaskTable, max_ready: int) -> list[int]:
        """Gather episode `b`; return the tasks shown."""
        tasks = table.shown(max_ready)
        n, facts, estimate = len(tasks), table.partial.facts, table.partial.estimate
        self.rows[b, :n] = table.values[tasks]
        self.near[b, :n] = table.placed_on[facts.near[tasks]]
        self.far[b, :n] = table.placed_on[facts.far[tasks]]
        self.near_size[b, :n] = facts.near_size[tasks]
        self.free[b, 0] = estimate.device_free_ns
        self.slowness[b, 0] = facts.device_slowness
        self.scalars[:, b, 0, 0] = (
            facts.unit_ns,
            estimate.makespan_ns,
            facts.rank_max,
            table.work_left,
        )
        return tasks


def _features(raw: _Raw, columns: Columns, legal: BoolArray) -> list[Floats]:
    """Return F arrays (B, R, D) in the order of FEATURES."""
    unit, makespan, rank_max, work_left = raw.scalars
    rows, free = raw.rows, raw.free
    alone = rows[..., columns.alone, None]  # (B, R, 4, 1)
    ready, duration = rows[..., columns.ready], rows[..., columns.duration]
    start = np.maximum(ready, free)
    end = start + duration
    first_end = _least(end, legal, axis=-1)
    rank, path = alone[:, :, RANK], alone[:, :, BELOW] + end
    longest = _most(_least(path, legal, axis=-1))
    near_all = raw.near.sum(axis=-1, keepdims=True)
    shape = end.shape
    return [
        _log((start - free) / unit),
        _log((start - _least(start, legal, axis=(-2, -1))) / unit),
        _log(duration / unit),
        np.log(np.maximum(duration, 1) / np.maximum(_least(duration, legal, axis=-1), 1)),
        _log((end - first_end) / unit),
        (end == first_end).astype(np.float64),
        _log((end - makespan) / unit),
        np.broadcast_to(rank / rank_max, shape),
        np.broadcast_to(rank / _most(rank), shape),
        np.log(np.maximum(path, 1) / longest),
        _signed_log((free - free.mean(axis=-1, keepdims=True)) / unit) + np.zeros(shape),
        np.broadcast_to(work_left, shape),
        _log((ready - _least(ready, legal, axis=-1)) / unit),
        rows[..., columns.local],
        np.broadcast_to(_log(alone[:, :, MOVE] / unit), shape),
        np.broadcast_to(_log(alone[:, :, READERS]), shape),
        raw.near / np.maximum(near_all, 1),
        raw.far / np.maximum(raw.far.sum(axis=-1, keepdims=True), 1),
        np.broadcast_to(near_all / raw.near_size[..., None], shape),
        np.broadcast_to(raw.slowness, shape),
    ]


def _log(value: Floats) -> Floats:
    """Return log(1 + x), 0 below 0."""
    logs: Floats = np.log1p(np.maximum(value, 0))
    return logs


def _signed_log(value: Floats) -> Floats:
    signed: Floats = np.sign(value) * np.log1p(np.abs(value))
    return signed


def _least(value: Floats, legal: BoolArray, axis: int | tuple[int, ...]) -> Floats:
    """Return the smallest legal value along `axis`, 0 where none is legal."""
    least: Floats = np.where(legal, value, np.inf).min(axis=axis, keepdims=True)
    least[np.isinf(least)] = 0
    return least


def _most(value: Floats) -> Floats:
    """Return the largest of each episode, at least 1."""
    most: Floats = np.maximum(value.max(axis=(-2, -1), keepdims=True), 1)
    return most
