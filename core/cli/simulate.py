"""`dynpartition simulate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dynpartition.cli.graphs import load_world
from dynpartition.cli.incidents import parse_losses, parse_slowdowns
from dynpartition.cli.summary import describe_load, describe_losses, describe_trace
from dynpartition.cli.verb import Verb
from dynpartition.conditions import Conditions
from dynpartition.contract import FixedPlan, GraphWorkload, Scheduler, drive
from dynpartition.formats import read_plan, write_trace
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch, Plan
from dynpartition.profile import Profile
from dynpartition.trace import Trace

if TYPE_CHECKING:
    from dynpartition.sim.backend import SimSession


@dataclass(frozen=True, kw_only=True)
class Simulate(Verb):
    """Run a plan in the simulator and write what happened (--json) as a trace file."""

    graph: Path
    """Graph file, ONNX model (.onnx), or node-link JSON of networkx."""
    profile: str
    """Profile file, or the name of a shipped profile."""
    plan: Path
    """Plan file."""
    slow: tuple[str, ...] = ()
    """Devices that get slower during the run: DEVICE@TIME:SPEED, as in cuda:0@5ms:0.5."""
    lose: tuple[str, ...] = ()
    """Devices that stop during the run: DEVICE@TIME, as in cuda:0@5ms."""
    scheduler: str = "heft"
    """Who plans what is left when a device has been lost."""
    policy: Path | None = None
    """Checkpoint folder for the scheduler `policy`."""
    dims: tuple[str, ...] = ()
    """Sizes of an ONNX model's symbolic dimensions, as for `schedule`."""

    def execute(self) -> None:
        """Simulate the plan."""
        from dynpartition.sim.reference import simulate

        slowdowns, losses = parse_slowdowns(self.slow), parse_losses(self.lose)
        conditions = Conditions(seed=self.seed, slowdowns=slowdowns, losses=losses)
        graph, profile, _ = load_world(self.graph, self.profile, self.dims)
        plan = read_plan(self.plan, graph, profile.cluster)
        if losses:
            trace = self._simulate_losses(graph, profile, plan, conditions)
        else:
            trace = simulate(graph, profile, plan, conditions=conditions)
        if self.json:
            write_trace(self.json, trace, graph)
        print(describe_trace(trace))
        print(describe_load(trace, profile.cluster))
        if losses:
            print(describe_losses(trace, losses))

    def _simulate_losses(
        self, graph: TaskGraph, profile: Profile, plan: Plan, conditions: Conditions
    ) -> Trace:
        from dynpartition.agent.registry import make_scheduler
        from dynpartition.sim.backend import SimBackend

        after = make_scheduler(self.scheduler, seed=self.seed, policy=self.policy)
        backend = SimBackend(profile, conditions=conditions)
        with backend.open(GraphWorkload(graph)) as session:
            drive(session, _UntilLoss(session, plan, after), profile)
            return session.complete_trace


class _UntilLoss(Scheduler):
    """Plays a plan of the complete graph until a device is lost; then another one decides."""

    name = "until loss"

    def __init__(self, session: SimSession, plan: Plan, after: Scheduler) -> None:
        self._session = session
        self._plan = plan
        self._after = after

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        if self._session.profile_now is not None:
            return self._after.schedule(graph, profile, planned)
        return FixedPlan(self._renumbered()).schedule(graph, profile, planned)

    def _renumbered(self) -> Plan:
        """Return the plan in the session's numbering; tasks not shown yet have high numbers."""
        shown = self._session.task_order
        hidden = sorted(set(range(len(self._session.complete_graph))).difference(shown))
        number = {old: new for new, old in enumerate((*shown, *hidden))}
        return Plan(
            tuple(
                Launch(launch.device, tuple(number[task] for task in launch.tasks))
                for launch in self._plan.launches
            )
        )
