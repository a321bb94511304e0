"""The compiled simulator: the same traces as the reference, in far less time."""

from __future__ import annotations

import time
from collections.abc import Callable

from dynpartition.cluster import Cluster, Device
from dynpartition.compiled import noticing_compilation
from dynpartition.conditions import GOOD_DAY, Conditions
from dynpartition.graph import Cell, Task, TaskGraph
from dynpartition.plan import Plan, single_task_plan
from dynpartition.pricing import price
from dynpartition.profile import PricedGraph, Profile
from dynpartition.program import lower
from dynpartition.sim import reference
from dynpartition.sim.batch import pack, run_batch
from dynpartition.sim.evaluate import evaluate_many
from dynpartition.sim.kernel_pack import ProgramWorld
from dynpartition.trace import Trace


def simulate_compiled(
    graph: TaskGraph,
    profile: Profile,
    plan: Plan,
    *,
    complete: bool = True,
    conditions: Conditions = GOOD_DAY,
) -> Trace:
    """Return what running `plan` does: the same trace and errors as `reference.simulate`.

    The reference does the work, with Python's integers, where times may pass 2.3·10¹⁸ ns, and
    what is left of a run after a loss.
    """
    priced = PricedGraph(graph, profile)
    program = lower(graph, profile.cluster, plan, complete=complete)
    prices = price(program, priced, conditions)
    try:
        batch = None if prices.carried else pack([ProgramWorld(priced, program, prices)])
    except OverflowError:
        batch = None
    if batch is None:
        return reference.simulate(graph, profile, plan, complete=complete, conditions=conditions)
    return run_batch(batch).trace(0)


def compile_all(on_function: Callable[[str], None] = lambda name: None) -> float:
    """Compile all of the simulator, or load it from numba's cache on disk; return seconds.

    `on_function` is called with the name of each function that is compiled; see
    `dynpartition.compiled.noticing_compilation`.
    """
    begun = time.perf_counter()
    device = Device("cpu:0", "cpu")
    profile = Profile(Cluster((device,)), {})
    task = Task(id=0, cell="a", duration_ns={"cpu:0": 1})
    graph = TaskGraph.from_tasks("one task", [Cell("a")], [task])
    plan = single_task_plan([(0, "cpu:0")])
    priced, program = PricedGraph(graph, profile), lower(graph, profile.cluster, plan)
    world = ProgramWorld(priced, program, price(program, priced))
    with noticing_compilation(on_function):
        for plain in (True, False):
            run_batch(pack([world], plain=plain))
        evaluate_many([graph], [plan], profile)
    return time.perf_counter() - begun
