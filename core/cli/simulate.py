"""`dynpartition simulate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dynpartition.cli.incidents import parse_slowdowns
from dynpartition.cli.summary import describe_load, describe_trace
from dynpartition.cli.verb import Verb
from dynpartition.conditions import Conditions
from dynpartition.formats import find_profile, read_graph, read_plan, write_trace


@dataclass(frozen=True, kw_only=True)
class Simulate(Verb):
    """Run a plan in the simulator and write what happened (--json) as a trace file."""

    graph: Path
    """Graph file."""
    profile: str
    """Profile file, or the name of a shipped profile."""
    plan: Path
    """Plan file."""
    slow: tuple[str, ...] = ()
    """Devices that get slower during the run: DEVICE@TIME:SPEED, as in cuda:0@5ms:0.5."""

    def execute(self) -> None:
        """Simulate the plan."""
        from dynpartition.sim.reference import simulate

        conditions = Conditions(seed=self.seed, slowdowns=parse_slowdowns(self.slow))
        graph = read_graph(self.graph)
        profile = find_profile(self.profile)
        plan = read_plan(self.plan, graph, profile.cluster)
        trace = simulate(graph, profile, plan, conditions=conditions)
        if self.json:
            write_trace(self.json, trace, graph)
        print(describe_trace(trace))
        print(describe_load(trace, profile.cluster))
