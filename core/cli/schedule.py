"""`dynpartition schedule`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dynpartition.cli.graphs import load_world
from dynpartition.cli.summary import describe_trace, format_ms
from dynpartition.cli.verb import Verb
from dynpartition.contract import GraphWorkload, Outcome, Scheduler, drive
from dynpartition.formats import check_writable, write_bytes, write_plan
from dynpartition.graph import TaskGraph
from dynpartition.plan import Plan
from dynpartition.profile import Profile


@dataclass(frozen=True, kw_only=True)
class Schedule(Verb):
    """Plan a graph with a scheduler and write the plan (--json) as a plan file.

    Hidden tasks are revealed to the scheduler as the simulated run goes on.
    """

    graph: Path
    """Graph file, ONNX model (.onnx), or node-link JSON of networkx."""
    profile: str
    """Profile file, or the name of a shipped profile."""
    scheduler: str
    """Name of the scheduler, for instance heft, single:cpu:0 or policy; or yours: mine.py:Name."""
    policy: Path | None = None
    """Folder of a trained policy, for the schedulers that use one."""
    budget_us: float | None = None
    """Time for each decision of a scheduler that searches, in microseconds."""
    evaluations: int | None = None
    """How many plans such a scheduler may try instead, which is repeatable."""
    dims: tuple[str, ...] = ()
    """Sizes of an ONNX model's symbolic dimensions: batch=8."""
    dot: Path | None = None
    """Where to write the placed graph for Graphviz, in the DOT language."""

    def execute(self) -> None:
        """Schedule the graph."""
        from dynpartition.agent.optimal import Optimal  # needs no solver
        from dynpartition.agent.registry import make_scheduler
        from dynpartition.agent.warming import warm_up

        graph, profile, names = load_world(self.graph, self.profile, self.dims)
        if self.dot:
            check_writable(self.dot)
        scheduler = make_scheduler(
            self.scheduler,
            seed=self.seed,
            policy=self.policy,
            budget_us=self.budget_us,
            evaluations=self.evaluations,
        )
        warm_up(scheduler, profile)
        plan, outcome = _schedule(graph, profile, scheduler)
        if self.json:
            write_plan(self.json, plan, graph)
        if self.dot:
            from dynpartition.interop.dot import to_dot

            write_bytes(self.dot, to_dot(graph, plan, names=names).encode())
        decided = f"decided in {format_ms(outcome.decision_ns)}"
        print(f"{self.scheduler}: {describe_trace(outcome.trace)}, {decided}")
        if isinstance(scheduler, Optimal) and scheduler.proof is not None:
            bound, gap = format_ms(scheduler.proof.bound_ns), scheduler.proof.gap
            print(f"lower bound {bound}; the plan takes {100 * gap:.2f} % longer")


def _schedule(graph: TaskGraph, profile: Profile, scheduler: Scheduler) -> tuple[Plan, Outcome]:
    """Return the plan, in the numbering of `graph`, and what it came to."""
    from dynpartition.sim.backend import SimBackend

    session = SimBackend(profile).open(GraphWorkload(graph))
    with session:
        outcome = drive(session, scheduler, profile)
    return session.complete_plan, outcome
