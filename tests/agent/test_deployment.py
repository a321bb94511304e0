"""A deployment plays whoever is faster, also when the machine changes under way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from dynpartition import Launch, Plan, Profile, TaskGraph
from dynpartition.agent.deployment import PROBE_EVERY, PROBES_FIRST, PROBES_KEPT, Deployment
from dynpartition.agent.heuristics import SingleDevice
from dynpartition.contract import Backend, Scheduler, Session, Workload
from dynpartition.sim.backend import SimBackend
from dynpartition.sim.perturb import rescaled
from tests.agent.worlds import trees, two_cpus

SLOW = rescaled(two_cpus(), lambda name: 1.0 if name.endswith("bandwidth") else 1e4)
"""cpu:0 takes half of cpu:1's time, and seconds: what decisions take does not matter."""
TURNED = rescaled(SLOW, lambda name: 4.0 if name.endswith("/cpu:0") else 1.0)
"""The same, but cpu:0 is the slower one."""


class Counted(Scheduler):
    def __init__(self, device: str, counts: Counter[str]) -> None:
        self.name, self._inner, self._counts = device, SingleDevice(device), counts

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        self._counts[self.name] += 1
        return self._inner.schedule(graph, profile, planned)


class Changing(Backend):
    """A machine that may become another."""

    def __init__(self) -> None:
        self.now = SimBackend(SLOW)

    @property
    def profile(self) -> Profile:
        return SLOW

    def open(self, workload: Workload) -> Session:
        return self.now.open(workload)


def deployed(policy: str) -> tuple[Deployment, Changing, Counter[str]]:
    machine, counts = Changing(), Counter()
    rival = {"cpu:0": "cpu:1", "cpu:1": "cpu:0"}[policy]
    return Deployment(machine, Counted(policy, counts), Counted(rival, counts)), machine, counts


@pytest.mark.parametrize("policy", ["cpu:0", "cpu:1"])
def test_whoever_is_faster_plays(policy: str) -> None:
    """Only probes run the slower one, whether it is the policy or the baseline."""
    deployment, _, counts = deployed(policy)
    count = PROBES_FIRST + 5 * PROBE_EVERY
    for workload in trees(count, 0):
        deployment.run(workload)
    n_probes = PROBES_FIRST + sum(n % PROBE_EVERY == 0 for n in range(PROBES_FIRST, count))
    assert deployment.plays.name == "cpu:0"
    assert counts == {"cpu:0": count, "cpu:1": n_probes}


def test_it_changes_when_the_machine_does() -> None:
    deployment, machine, _ = deployed("cpu:0")
    work = trees(PROBE_EVERY * (PROBES_KEPT + 2), 0)
    for workload in work[:PROBE_EVERY]:
        deployment.run(workload)
    assert deployment.plays is deployment.policy
    machine.now = SimBackend(TURNED)
    for workload in work:
        deployment.run(workload)
    assert deployment.plays is deployment.baseline
    machine.now = SimBackend(SLOW)
    for workload in work:
        deployment.run(workload)
    assert deployment.plays is deployment.policy


def test_a_probe_answers_with_the_run_of_who_plays() -> None:
    deployment, _, _ = deployed("cpu:1")
    outcomes = [deployment.run(workload) for workload in trees(PROBES_FIRST, 0)]
    used = [{launch.device for launch in outcome.plan.launches} for outcome in outcomes]
    assert used == [{"cpu:1"}, *[{"cpu:0"}] * (PROBES_FIRST - 1)]
