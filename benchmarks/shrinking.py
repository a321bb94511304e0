"""Makes a world smaller while two engines still differ in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, replace

from dynpartition import Conditions, Dispatch, DynPartitionError, Launch, Plan, Task, TaskGraph
from dynpartition.sim.worlds import Engine, World, find_difference

SIMPLER: dict[str, object] = {
    "host_bytes": 0,
    "returns": False,
    "arrival_ns": 0,
    "request": 0,
    "revealed_by": None,
    "output_bytes": 0,
    "inputs": (),
}


def shrink(engine_a: Engine, engine_b: Engine, world: World) -> World:
    """Return a world in which the engines differ too and nothing simple can be left out."""

    def differs(smaller: World) -> bool:
        try:
            return find_difference(engine_a, engine_b, smaller) is not None
        except DynPartitionError:  # what was left out was needed
            return False

    return shrink_while(differs, world)


def shrink_while(wanted: Callable[[World], bool], world: World) -> World:
    """Return a world that is still `wanted`."""
    going = True
    while going:
        smaller = next((each for each in _simpler(world) if wanted(each)), None)
        going = smaller is not None
        world = smaller or world
    return world


def _simpler(world: World) -> Iterator[World]:
    yield from _with_fewer_tasks(world)
    if world.conditions.slowdowns:
        yield replace(world, conditions=Conditions(seed=world.conditions.seed))
    yield from _with_a_simpler_profile(world)
    yield from _with_simpler_tasks(world)
    yield from _with_smaller_batches(world)


def _with_fewer_tasks(world: World) -> Iterator[World]:
    graph = world.graph
    needed = {*graph.revealers, *graph.inputs.values.tolist()}
    for gone in range(len(graph) - 1, -1, -1):
        if gone not in needed and len(graph) > 1:
            tasks = [task for index, task in enumerate(graph.tasks()) if index != gone]
            shorter = TaskGraph.from_tasks(graph.name, graph.cells, tasks)
            yield replace(world, graph=shorter, plan=_plan_without(world.plan, gone))


def _plan_without(plan: Plan, gone: int) -> Plan:
    launches = []
    for launch in plan.launches:
        tasks = tuple(task - (task > gone) for task in launch.tasks if task != gone)
        launches += [Launch(launch.device, tasks)] if tasks else []
    return Plan(tuple(launches))


def _with_a_simpler_profile(world: World) -> Iterator[World]:
    profile, cluster = world.profile, world.profile.cluster
    if profile.noise is not None:
        yield replace(world, profile=replace(profile, noise=None))
    for field in fields(Dispatch):
        plain = field.default if field.default is not MISSING else {}
        if getattr(profile.dispatch, field.name) != plain:
            dispatch = replace(profile.dispatch, **{field.name: plain})
            yield replace(world, profile=replace(profile, dispatch=dispatch))
    for number, device in enumerate(cluster.devices):
        if device.tracks_memory:
            free = replace(device, memory_bytes=None, resident=None)
            devices = (*cluster.devices[:number], free, *cluster.devices[number + 1 :])
            changed = replace(cluster, devices=devices)
            yield replace(world, profile=replace(profile, cluster=changed))
    for number, link in enumerate(cluster.links):
        others = cluster.links[:number], cluster.links[number + 1 :]
        choices = [(), (replace(link, blocks=None),), (replace(link, resources=()),)]
        for choice in choices:
            if choice != (link,):
                changed = replace(cluster, links=(*others[0], *choice, *others[1]))
                yield replace(world, profile=replace(profile, cluster=changed))


def _with_simpler_tasks(world: World) -> Iterator[World]:
    graph = world.graph
    for number, task in enumerate(graph.tasks()):
        for name, value in SIMPLER.items():
            if getattr(task, name) != value:
                yield _with_task(world, number, replace(task, **{name: value}))


def _with_task(world: World, number: int, task: Task) -> World:
    tasks = list(world.graph.tasks())
    tasks[number] = task
    graph = TaskGraph.from_tasks(world.graph.name, world.graph.cells, tasks)
    return replace(world, graph=graph)


def _with_smaller_batches(world: World) -> Iterator[World]:
    launches = world.plan.launches
    for number, launch in enumerate(launches):
        if len(launch.tasks) > 1:
            parts = [Launch(launch.device, (task,)) for task in launch.tasks]
            yield replace(world, plan=Plan((*launches[:number], *parts, *launches[number + 1 :])))
