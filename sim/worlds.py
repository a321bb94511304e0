"""Small hostile worlds from a seed, for whoever writes another engine.

Costs are tiny integers, so ties and zero lengths are the normal case. Every feature of
docs/semantics.md is switched on or off per world, and every plan is legal: an engine returns a
trace or raises OutOfDeviceMemory. `find_difference` compares two engines on one world, and
`find_features` says what a world exercises.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Protocol

import numpy as np

from dynpartition.cluster import TableCost
from dynpartition.conditions import Conditions
from dynpartition.errors import OutOfDeviceMemory
from dynpartition.graph import TaskGraph
from dynpartition.plan import Plan
from dynpartition.profile import Profile
from dynpartition.sim.world_maker import PLAIN, World, initial_weights, random_world
from dynpartition.trace import Trace

__all__ = [
    "PLAIN",
    "Engine",
    "World",
    "describe_difference",
    "find_difference",
    "find_features",
    "outcome",
    "random_world",
]


class Engine(Protocol):
    """What is compared, for instance `dynpartition.sim.simulate`."""

    def __call__(
        self, graph: TaskGraph, profile: Profile, plan: Plan, *, conditions: Conditions
    ) -> Trace:
        """Return what running the plan does; raises OutOfDeviceMemory."""


def outcome(engine: Engine, world: World) -> Trace | str:
    """Return the trace of `world`, or the message of its OutOfDeviceMemory."""
    try:
        return engine(world.graph, world.profile, world.plan, conditions=world.conditions)
    except OutOfDeviceMemory as error:
        return str(error)


def find_difference(engine_a: Engine, engine_b: Engine, world: World) -> str | None:
    """Return the first thing that two engines do differently in `world`, or None."""
    return describe_difference(outcome(engine_a, world), outcome(engine_b, world))


def describe_difference(a: Trace | str, b: Trace | str) -> str | None:
    """Return the first difference of two outcomes, or None."""
    if isinstance(a, str) or isinstance(b, str):
        return None if a == b else f"one ends with {_brief(a)}, the other with {_brief(b)}"
    if a == b:
        return None
    # The makespan comes first in a trace, but says least.
    names = [field.name for field in fields(Trace) if field.name != "makespan_ns"]
    for name in (*names, "makespan_ns"):
        left, right = getattr(a, name), getattr(b, name)
        if left != right:
            return f"{name}: {_first_difference(left, right)}"
    raise AssertionError("traces differ in no field")


def _brief(end: Trace | str) -> str:
    return repr(end) if isinstance(end, str) else f"a trace of {end.makespan_ns} ns"


def _first_difference(left: object, right: object) -> str:
    if not isinstance(left, tuple) or not isinstance(right, tuple):
        return f"{left} and {right}"
    for number, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return f"number {number} is {one} and {other}"
    longer = max(left, right, key=len)
    which = "first" if longer is left else "second"
    rest = longer[min(len(left), len(right))]
    return f"{len(left)} and {len(right)} entries; only the {which} has {rest}"


def find_features(world: World, end: Trace | str) -> set[str]:
    """Return what `world`, which ended with `end`, exercises."""
    found = {*_of_graph(world), *_of_plan(world), *_of_machine(world), *_of_dispatch(world)}
    return found.union(_of_trace(world, end) if isinstance(end, Trace) else _of_shortage(end))


def _present(facts: dict[str, object]) -> Iterator[str]:
    return (name for name, fact in facts.items() if fact)


def _of_graph(world: World) -> Iterator[str]:
    graph = world.graph
    requests, arrivals = graph.request.tolist(), set(graph.arrival_ns.tolist())
    edges = [(task, source) for task, row in enumerate(graph.input_lists) for source in row]
    revealers = graph.revealers
    return _present(
        {
            "a single task": len(graph) == 1,
            "isolated task": len({task for edge in edges for task in edge}) < len(graph),
            "multi-edge": len(set(edges)) < len(edges),
            "several requests": len(set(requests)) > 1,
            "edge between requests": any(requests[a] != requests[b] for a, b in edges),
            "arrivals": len(arrivals) > 1,
            "nothing arrives at 0": 0 not in arrivals,
            "reveal": revealers,
            "nested reveal": any(graph.gates[task] for task in revealers),
            "host input": graph.host_bytes.any(),
            "answer": graph.returns.any(),
            "own duration": graph.durations,
            "weights": any(cell.param_bytes for cell in graph.cells),
            "huge numbers": (graph.output_bytes > 10**9).any(),
        }
    )


def _of_plan(world: World) -> Iterator[str]:
    graph, launches = world.graph, world.plan.launches
    batches = [launch.tasks for launch in launches if len(launch.tasks) > 1]
    edges = [(task, source) for task, row in enumerate(graph.input_lists) for source in row]
    home = world.plan.placement()
    return _present(
        {
            "batch": batches,
            "batch over requests": any(np.ptp(graph.request[list(tasks)]) for tasks in batches),
            "remote edge": any(home[task] != home[source] for task, source in edges),
            "noise": world.profile.noise,
            "slowdown": world.conditions.slowdowns,
        }
    )


def _of_machine(world: World) -> Iterator[str]:
    cluster = world.profile.cluster
    links, devices = cluster.links, cluster.devices
    held = [name for link in links for name in link.held]
    blocks = [link.blocks for link in links]
    return _present(
        {
            f"{len(devices)} devices": True,
            "copies block src": "src" in blocks,
            "copies block dst": "dst" in blocks,
            "copies block both": "both" in blocks,
            "host is not the first device": cluster.host_index,
            "shared resource": len(set(held)) < len(held),
            "link with several resources": len(held) > len(links),
            "absent link": len(links) < len(devices) * (len(devices) - 1),
            "link table": any(isinstance(link.cost, TableCost) for link in links),
            "memory limit": any(device.memory_bytes is not None for device in devices),
            "resident list": any(device.resident is not None for device in devices),
        }
    )


def _of_dispatch(world: World) -> Iterator[str]:
    dispatch = world.profile.dispatch
    walks = dispatch.host_mode in ("single", "threads", "processes")
    return _present(
        {
            f"host mode {dispatch.host_mode}": True,
            "h": dispatch.h and dispatch.host_mode != "none",
            "h by device or cell": dispatch.h and not isinstance(dispatch.h, int),
            "h_copy": dispatch.h_copy and walks,
            "lock": dispatch.lock and dispatch.host_mode == "threads",
            "handoff": dispatch.handoff_ns and dispatch.host_mode == "processes",
            "queue depth": dispatch.queue_depth and walks,
            "bookkeeping": dispatch.bookkeeping_ns,
            "copy-in": dispatch.copy_in,
            "copy-out": dispatch.copy_out,
            "sync or decision": world.graph.revealers and dispatch.sync_ns + dispatch.decision_ns,
        }
    )


def _of_shortage(message: str) -> Iterator[str]:
    before = "at once" in message or "resident cells" in message
    yield "out of memory before the run" if before else "out of memory during the run"


def _of_trace(world: World, trace: Trace) -> Iterator[str]:
    starts = [span.start_ns for span in trace.launches]
    ended_ns = {task: span.end_ns for span in trace.launches for task in span.tasks}
    outputs = [span for span in trace.transfers if not span.host_input]
    loads = [(load.device, load.cell) for load in trace.loads]
    cells = world.graph.cells
    resident = {
        (device.name, cells[number].name)
        for device in world.profile.cluster.devices
        if loads
        for number in initial_weights(device, cells)
    }
    return _present(
        {
            "launch of 0 ns": any(span.start_ns == span.end_ns for span in trace.launches),
            "launches start together": len(set(starts)) < len(starts),
            "transfer": trace.transfers,
            "transfer of 0 ns": any(span.start_ns == span.end_ns for span in trace.transfers),
            "transfer of several outputs": any(len(span.tasks) > 1 for span in outputs),
            "transfer waits": any(span.start_ns > ended_ns[span.tasks[0]] for span in outputs),
            "dispatch": trace.dispatches,
            "load": loads,
            "weights loaded again": len(set(loads)) < len(loads) or resident.intersection(loads),
        }
    )
