"""Schedulers of the library SAGA (anrg-saga) as schedulers of this package.

SAGA knows machines whose devices differ in speed alone, links without latency that carry any number
of transfers at once, and no host. A world is told to it as well as that goes: costs and speeds are
the rank-one fit of the table of durations on logarithms, a link's speed is that of an output of
mean size, latency included. What it plans, places and order, is judged by the simulator.
"""

from __future__ import annotations

import heapq
import importlib
import logging
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np
from saga import Network, ScheduledTask
from saga import TaskGraph as SagaGraph

from dynpartition import Launch, Plan, PricedGraph, Profile, Scheduler, TaskGraph

CLASSES = {
    "saga-heft": "HeftScheduler",
    "saga-cpop": "CpopScheduler",
    "saga-min-min": "MinMinScheduler",
    "saga-max-min": "MaxMinScheduler",
    "saga-duplex": "DuplexScheduler",
    "saga-sufferage": "SufferageScheduler",
    "saga-etf": "ETFScheduler",
    "saga-gdl": "GDLScheduler",
    "saga-bil": "BILScheduler",
    "saga-fcp": "FCPScheduler",
    "saga-flb": "FLBScheduler",
    "saga-mct": "MCTScheduler",
    "saga-met": "METScheduler",
    "saga-olb": "OLBScheduler",
    "saga-wba": "WBAScheduler",
    "saga-fastest-node": "FastestNodeScheduler",
}
"""Name in the table → class in saga.schedulers: all that end within seconds on 64 tasks, but for
HbmctScheduler, which leaves tasks of some graphs out (2.0.2)."""


class Saga(Scheduler):
    """One of SAGA's schedulers.

    `decided_ns`: what its last decision took, without translating; `promised_ns`: the makespan that
    it expects.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        logging.getLogger().setLevel(logging.ERROR)  # SAGA warns of every source that it adds
        self._inner = getattr(importlib.import_module("saga.schedulers"), CLASSES[name])()
        self.decided_ns, self.promised_ns = 0, 0.0

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return a launch per task, in SAGA's order."""
        assert not planned, "SAGA plans whole graphs"
        network, tasks = translated(graph, profile)
        _forget()
        begun_ns = time.perf_counter_ns()
        schedule = self._inner.schedule(network, tasks)
        self.decided_ns = time.perf_counter_ns() - begun_ns
        self.promised_ns = schedule.makespan
        return _in_order(graph, schedule.mapping)


def _in_order(graph: TaskGraph, rows: Mapping[str, Sequence[ScheduledTask]]) -> list[Launch]:
    """Return launches by start, each after its inputs, which SAGA does not always keep to."""
    placed = {
        int(row.name): (row.start, device)
        for device, own in rows.items()
        for row in own
        if not row.name.startswith("__super")  # SAGA adds one source and one sink
    }
    missing = [len(set(inputs)) for inputs in graph.input_lists]
    ready = [(placed[task][0], task) for task in range(len(graph)) if not missing[task]]
    heapq.heapify(ready)
    launches = []
    while ready:
        _, task = heapq.heappop(ready)
        launches.append(Launch(placed[task][1], (task,)))
        for reader in graph.reader_lists[task]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, (placed[reader][0], reader))
    return launches


def translated(graph: TaskGraph, profile: Profile) -> tuple[Network, SagaGraph]:
    """Return the world in SAGA's terms, in ns and bytes."""
    cluster = profile.cluster
    priced = PricedGraph(graph, profile)
    log_ns = np.log(np.maximum(1, priced.task_ns))  # (N, D)
    speeds = np.exp(-(log_ns - log_ns.mean(axis=1, keepdims=True)).mean(axis=0))
    costs = np.exp((log_ns + np.log(speeds)).mean(axis=1))
    mean_bytes = max(1, round(float(graph.output_bytes.mean())))
    rates: dict[tuple[str, str], list[float]] = {}
    for number, link in enumerate(cluster.links):
        ends = min(link.src, link.dst), max(link.src, link.dst)
        took_ns = max(1, priced.transfer_ns(number, mean_bytes))
        rates.setdefault(ends, []).append(mean_bytes / took_ns)
    network = Network.create(
        nodes=[(name, float(s)) for name, s in zip(cluster.names, speeds, strict=True)],
        edges=[(*ends, float(np.mean(both))) for ends, both in rates.items()],
    )
    edges = [
        (str(source), str(task), float(graph.output_bytes[source]))
        for task, inputs in enumerate(graph.input_lists)
        for source in dict.fromkeys(inputs)
    ]
    tasks = [(str(task), float(cost)) for task, cost in enumerate(costs)]
    return network, SagaGraph.create(tasks=tasks, dependencies=edges)


def _forget() -> None:
    """Empty SAGA's caches: it remembers ranks of equal worlds, for all of its schedulers."""
    for name, module in list(sys.modules.items()):
        if name == "saga" or name.startswith("saga."):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
