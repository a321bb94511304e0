"""A backend that schedulers are told something else of: the machine stays what it is."""

from dataclasses import replace

import numpy as np
import pytest

from dynpartition import GraphWorkload, run
from dynpartition.agent.registry import make_scheduler
from dynpartition.belief import Believing
from dynpartition.conditions import Conditions, Loss
from dynpartition.contract import CompletePlan, Scheduler
from dynpartition.errors import ProfileError
from dynpartition.sim import SimBackend
from dynpartition.sim.perturb import rescaled
from tests.agent.worlds import tree_graph, two_cpus

WORK = GraphWorkload(tree_graph(5, 1))


def mistaken():
    """The fast device seems ten times slower."""
    return rescaled(two_cpus(), lambda name: 10.0 if name.endswith("/cpu:0") else 1.0)


def test_schedulers_decide_by_what_they_know_and_the_machine_runs_it():
    machine = SimBackend(two_cpus())
    backend = Believing(machine, mistaken())
    outcome = run(backend, WORK, make_scheduler("best-single"))
    assert {launch.device for launch in outcome.plan.launches} == {"cpu:1"}
    assert outcome.trace == run(machine, WORK, make_scheduler("single:cpu:1")).trace
    with backend.open(WORK) as session:
        assert session.is_complete and session.profile_now is None and not session.plan
    choices = np.array([(task, 1) for task in WORK.graph.topological_order])
    (ns,) = backend.makespans_ns([CompletePlan(WORK, WORK.graph, choices)])
    assert ns == outcome.trace.makespan_ns


def test_after_a_loss_it_is_still_what_they_know():
    seen = []

    class Asked(Scheduler):
        name = "asked"

        def schedule(self, graph, profile, planned):
            seen.append(profile)
            device = "cpu:1" if len(seen) == 1 else "cpu:0"
            return make_scheduler(f"single:{device}").schedule(graph, profile, planned)

    known = mistaken()
    losing = SimBackend(two_cpus(), conditions=Conditions(losses=(Loss("cpu:1", 100_000),)))
    run(Believing(losing, known), WORK, Asked())
    assert len(seen) == 2
    assert seen[0] is known
    assert not seen[1].cluster.links
    assert seen[1].cells["leaf"] == {"cpu:0": known.cells["leaf"]["cpu:0"]}


def test_another_machine_is_refused():
    profile = two_cpus()
    alone = replace(profile, cluster=replace(profile.cluster, links=()))
    with pytest.raises(ProfileError, match="differs in numbers alone"):
        Believing(SimBackend(profile), alone)
