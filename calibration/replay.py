"""Whether costs add up: a real run, simulated with the costs that this very run had.

What is left between both makespans is what the simulator's rules do not say, not what its numbers
do not know: in virtual time it does not depend on how busy the machine is.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np

from dynpartition.calibration.observations import HostTimes, observe
from dynpartition.cluster import AffineCost, Cluster, TableCost, TransferCost
from dynpartition.contract import Outcome
from dynpartition.graph import TaskGraph
from dynpartition.profile import Dispatch, Profile
from dynpartition.sim.engine import simulate_compiled
from dynpartition.types import frozen


def replayed_ns(outcome: Outcome, cluster: Cluster, times: HostTimes) -> int:
    """Return the makespan of a run that is simulated with its own durations.

    Launches last what they lasted, transfers what those of their size and link lasted on average,
    and values are known after the mean delay of this run.
    """
    graph, trace = outcome.graph, outcome.trace
    seen = observe(0, graph, cluster, trace, times)
    durations = {name: np.full(len(graph), -1, dtype=np.int64) for name in cluster.names}
    lasted = {row.number: round(row.ns) for row in seen.launches}
    for number, span in enumerate(trace.launches):
        first, *others = span.tasks
        durations[span.device][first] = lasted.get(number, span.end_ns - span.start_ns)
        durations[span.device][list(others)] = 0  # a launch lasts the sum of its tasks
    notes: dict[str, list[float]] = defaultdict(list)
    for note in seen.notes:
        notes[note.what].append(note.ns)
    dispatch = Dispatch(
        host_mode="processes",
        sync_ns=_mean_ns(notes["sync"]),
        decision_ns=_mean_ns(notes["decision"]) + _mean_ns(notes["start"]),
    )
    moves: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for move in seen.moves:
        moves[move.src, move.dst][move.bytes].append(move.ns)
    links = tuple(
        replace(link, cost=_table(moves[link.src, link.dst], link.cost)) for link in cluster.links
    )
    priced: TaskGraph = replace(graph, durations={d: frozen(row) for d, row in durations.items()})
    profile = Profile(replace(cluster, links=links), {}, dispatch)
    return simulate_compiled(priced, profile, outcome.plan).makespan_ns


def _mean_ns(times: list[float]) -> int:
    return round(float(np.mean(times))) if times else 0


def _table(rows: dict[int, list[float]], otherwise: TransferCost) -> TransferCost:
    points = {max(1, size): max(1, _mean_ns(times)) for size, times in sorted(rows.items())}
    if not points:
        return otherwise
    if len(points) == 1:
        return AffineCost(next(iter(points.values())), 10**15)
    return TableCost(tuple(points.items()))
