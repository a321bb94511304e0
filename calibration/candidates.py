"""Placements that only the simulator can name: its best, and those it knows least about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dynpartition.calibration.joint import Job, JobSimulator
from dynpartition.calibration.rollouts import LAUNCH_SIZES, Batched, RandomRollout
from dynpartition.contract import Backend, Scheduler, Workload, run
from dynpartition.graph import TaskGraph
from dynpartition.plan import Plan
from dynpartition.profile import Profile
from dynpartition.sim.perturb import perturbed

CANDIDATES = 24
"""Random placements per input to choose from."""
_MACHINES, _UNCERTAINTY = 8, 0.1
"""Machines like the profile's, whose predictions differ most for an adversarial placement."""


def candidate_plans(
    simulator: Backend, workload: Workload, plans: Sequence[Plan], *, count: int, seed: int
) -> dict[str, Plan]:
    """Return `count` placements of one input by name: `sim-best`, `adversarial`, `random-1`, ….

    The simulator's best is chosen among random placements and `plans`; adversarial is the random
    one whose prediction depends most on the exact numbers of the profile. Placements stand once.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 5]))
    cluster = simulator.profile.cluster
    offers: dict[Plan, None] = {}
    for number in range(CANDIDATES):
        scheduler: Scheduler = RandomRollout(rng, len(cluster.devices))
        if number % 2:
            scheduler = Batched(scheduler, int(rng.choice(LAUNCH_SIZES[1:])))
        offers[run(simulator, workload, scheduler).plan] = None
    random = [plan for plan in offers if plan not in plans]
    graph, choices = workload.graph, [*plans, *random]
    times = simulated_ns(simulator.profile, graph, choices)
    chosen = {"sim-best": choices[int(np.argmin(times))]}
    if random:
        spread = _spread(simulator.profile, graph, random)
        chosen["adversarial"] = random[int(np.argmax(spread))]
    chosen |= {f"random-{number}": plan for number, plan in enumerate(random, 1)}
    taken: dict[str, Plan] = {}
    for name, plan in chosen.items():
        if plan not in plans and plan not in taken.values():
            taken[name] = plan
    return dict(list(taken.items())[:count])


def simulated_ns(
    profile: Profile, graph: TaskGraph, plans: Sequence[Plan]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return what each plan takes in the simulator, without noise."""
    return JobSimulator(profile, [Job(graph, plan, 1.0, 1.0) for plan in plans]).makespans_ns(
        profile
    )


def _spread(
    profile: Profile, graph: TaskGraph, plans: Sequence[Plan]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the relative standard deviation of each plan's makespan over similar machines."""
    jobs = JobSimulator(profile, [Job(graph, plan, 1.0, 1.0) for plan in plans])
    machines = [perturbed(profile, seed, uncertainty=_UNCERTAINTY) for seed in range(_MACHINES)]
    times = np.array([jobs.makespans_ns(machine) for machine in machines])
    spread: np.ndarray[tuple[int], np.dtype[np.float64]] = times.std(axis=0) / times.mean(axis=0)
    return spread
