"""Plans as a policy makes them: whole rollouts in compiled code, for one graph at a time.

N tasks, D devices, R rollouts, S styles, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynpartition.agent import kernel
from dynpartition.agent.batch import NOTHING, Batch
from dynpartition.agent.facts import Facts
from dynpartition.agent.size_prices import SizePrices
from dynpartition.errors import SchedulerError
from dynpartition.graph import Cell, TaskGraph
from dynpartition.plan import Plan
from dynpartition.profile import PricedGraph, Profile
from dynpartition.types import FloatArray, IntArray

GREEDY = -1
"""The seed of a rollout that takes the best choice at each step."""
ONE_DEVICE = -1
"""The style of a plan that uses one device."""
DEVICES_MAX = 60
"""Legal devices are bits of one integer."""


@dataclass(frozen=True, slots=True)
class Rolled:
    """R plans for what was left of one graph."""

    choices: IntArray
    """(R, T, 2) task and device, in order of choice."""
    ends_ns: IntArray
    """(R,) when the last launch ends, by the schedulers' estimate; −1: no legal device was left;
    kernel.NEVER: given up."""


@dataclass(frozen=True, slots=True)
class Records:
    """What R rollouts saw and did at each of T steps; W = kernel.N_WINDOW."""

    steps: IntArray
    """(R, N, 4 + W) how many ready tasks were seen, which was chosen, its device, legal devices as
    bits; then those tasks."""
    ready: FloatArray
    """(R, N, W, N_READY_FEATURES)"""
    option: FloatArray
    """(R, N, D, N_OPTION_FEATURES)"""


class Decoder:
    """Plays policies on graphs under one profile."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self.n_devices = len(profile.cluster.devices)
        if self.n_devices > DEVICES_MAX:
            raise SchedulerError(
                f"a policy chooses among at most {DEVICES_MAX} devices, the profile has"
                f" {self.n_devices}; leave some out"
            )
        links = profile.cluster.link_table
        self._all_linked = bool((links >= 0).sum() == self.n_devices * (self.n_devices - 1))
        self._batch = Batch(profile, 2, 1)
        self._sizes = SizePrices(profile)
        each = [profile.dispatch.bookkeeping_on(name) for name in profile.cluster.names]
        self._extra_ns: IntArray = np.array(each, dtype=np.int64)
        self._h_ns: dict[tuple[Cell, ...], IntArray] = {}
        self._n_tasks, self._n_styles, self._n_recorded = 0, 1, 0
        self.n_left = 0
        self._lay_out(64, 1)

    def begin(self, graph: TaskGraph, planned: Plan = NOTHING) -> None:
        """Turn to a graph of which `planned` is placed."""
        priced = PricedGraph(graph, self._profile)
        n_tasks = len(graph)
        self.n_left = n_tasks - sum([len(launch.tasks) for launch in planned.launches])
        self._room(n_tasks, self._n_styles)
        self._order = self._orders[:n_tasks]
        if self._all_linked:
            self._fill(priced)
        else:
            facts = Facts(graph, self._profile)
            for slot in range(2):  # the one that stays as it is, and the one that plans grow in
                self._batch.begin(slot, facts)
            self._order[:] = graph.topological_order
        if planned:
            self._replay(priced, planned)

    def think(self, weights: FloatArray, net: kernel.Net) -> None:
        """Run the graph network on the graph."""
        self._weights, self._net = weights, net
        self._room(len(self._order), net.n_styles)
        ints = self._batch.ints
        kernel.understand(
            ints[0],
            self._batch.places,
            self._order,
            weights,
            net,
            self._z,
            self._about,
            self._near,
            self._facts,
            self._coded,
            self._mixed,
            self._sums,
            self._priority,
            self._to_ready,
            self._to_option,
        )

    def _fill(self, priced: PricedGraph) -> None:
        graph = priced.graph
        n_tasks, gates = len(graph), graph.gates if graph.revealers else ()
        gate_start = np.zeros(n_tasks + 1, dtype=np.int64)
        if gates:
            np.cumsum([len(row) for row in gates], out=gate_start[1:])
        gate_values = np.array([gate for row in gates for gate in row], dtype=np.int64)
        n_rows = 2 * len(graph.inputs.values) + len(gate_values)
        self._batch.make_room(n_tasks, n_rows)
        sizes, size_ns = self._sizes.table(graph.output_bytes, graph.host_bytes)
        kernel.fill(
            self._batch.ints,
            self._batch.places,
            graph.inputs.start,
            graph.inputs.values,
            priced.task_ns,
            graph.cell_of,
            self._h_of(graph),
            self._extra_ns,
            sizes,
            size_ns,
            graph.output_bytes,
            graph.host_bytes,
            graph.returns,
            graph.arrival_ns,
            gate_start,
            gate_values,
            self._order,
        )

    def _h_of(self, graph: TaskGraph) -> IntArray:
        """Return (K, D) host times of the launches of each cell."""
        found = self._h_ns.get(graph.cells)
        if found is None:
            devices, h_ns = self._profile.cluster.devices, self._profile.dispatch.h_ns
            rows = [[h_ns(cell, device) for device in devices] for cell in graph.cell_names]
            found = self._h_ns[graph.cells] = np.array(rows, dtype=np.int64)
        return found

    def _replay(self, priced: PricedGraph, planned: Plan) -> None:
        """Append launches that are planned."""
        launches, index = planned.launches, self._profile.cluster.index
        devices = [index(launch.device) for launch in launches]
        run_ns = [
            priced.compute_ns(launch.tasks, device) + len(launch.tasks) * int(extra_ns)
            for launch, device in zip(launches, devices, strict=True)
            for extra_ns in (self._extra_ns[device],)
        ]
        tasks = [task for launch in launches for task in launch.tasks]
        start = np.cumsum([0] + [len(launch.tasks) for launch in launches])
        arrays = [np.array(row, dtype=np.int64) for row in (tasks, start, devices, run_ns)]
        kernel.replay(self._batch.ints[0], self._batch.places, *arrays)

    def roll(
        self, styles: IntArray, seeds: IntArray, *, records: bool = False, prunes: bool = False
    ) -> Rolled:
        """Play a plan for each style (ONE_DEVICE: all on the best one) and seed (GREEDY: no dice).

        `prunes`: give up a plan as soon as an earlier one is as good.
        """
        n = len(styles)
        if records:
            self._room_for_records(n)
        choices = np.empty((n, self.n_left, 2), dtype=np.int64)
        ends_ns = np.empty(n, dtype=np.int64)
        ints = self._batch.ints
        kernel.roll_many(
            ints[1],
            ints[0],
            self._batch.places,
            self._weights,
            self._net,
            self._about,
            self._near,
            self._priority,
            self._to_ready,
            self._to_option,
            self._by_priority,
            self._place_of,
            self._words,
            self._fresh,
            self._related,
            self._left,
            self._window,
            self._units[0],
            styles,
            seeds,
            choices,
            ends_ns,
            int(prunes),
            int(records),
            self._rec,
            self._rec_ready,
            self._rec_option,
            self._view_ready,
            self._view_option,
        )
        return Rolled(choices, ends_ns)

    def views(self) -> list[dict[str, IntArray]]:
        """Return what the two slots hold, by the names of `kernel.Places`; for tests."""
        return self._batch.views()

    @property
    def records(self) -> Records:
        """What the rollouts of the last call saw; overwritten by the next."""
        return Records(self._rec, self._rec_ready, self._rec_option)

    @property
    def facts(self) -> FloatArray:
        """(N, N_STATIC) what the graph network was told of each task."""
        return self._facts[: len(self._order)]

    def learn(
        self,
        gradient: FloatArray,
        styles: IntArray,
        advantages: npt.NDArray[np.float64],
        entropy: float,
        totals: npt.NDArray[np.float64],
    ) -> None:
        """Add the gradient of Σ advantage · log probability of the recorded rollouts, and more."""
        ints = self._batch.ints
        kernel.learn(
            ints[0],
            self._batch.places,
            self._weights,
            self._net,
            gradient,
            self._facts,
            self._coded,
            self._mixed,
            self._to_ready,
            self._to_option,
            self._priority,
            self._d_priority,
            self._d_ready,
            self._d_option,
            self._d_coded,
            self.n_left,
            styles,
            advantages,
            entropy,
            self._rec,
            self._rec_ready,
            self._rec_option,
            self._units,
            self._scores,
            self._sums,
            totals,
        )

    def _room(self, n: int, n_styles: int) -> None:
        if n > self._n_tasks or n_styles != self._n_styles:
            self._lay_out(max(n, self._n_tasks), n_styles)

    def _lay_out(self, n: int, n_styles: int) -> None:
        self._n_tasks, self._n_styles, self._n_recorded = n, n_styles, 0
        f32, units = np.float32, (kernel.N_READY_UNITS, kernel.N_OPTION_UNITS)
        self._z = np.zeros((n, 8))
        self._about = np.zeros(kernel.ABOUT_DEVICES + 4 * kernel.MAX_DEVICES)
        self._near, self._by_priority, self._place_of = np.zeros((3, n), dtype=np.int64)
        self._fresh = np.zeros((n, 4), dtype=np.int64)
        self._orders = np.zeros(n, dtype=np.int64)
        self._words = np.zeros(n // kernel.WORD + 2, dtype=np.int64)
        self._related = np.zeros((n, self.n_devices + 1), dtype=np.int64)
        self._left = np.zeros(self.n_devices)
        self._window = np.zeros(kernel.N_WINDOW, dtype=np.int64)
        self._facts = np.zeros((n, kernel.N_STATIC), dtype=f32)
        self._coded, self._mixed, self._d_coded = np.zeros((3, n, kernel.N_EMBEDDED), dtype=f32)
        self._sums = np.zeros((6, kernel.N_EMBEDDED), dtype=f32)
        self._priority, self._d_priority = np.zeros((2, n, n_styles), dtype=f32)
        self._to_ready, self._d_ready = np.zeros((2, n, units[0]), dtype=f32)
        self._to_option, self._d_option = np.zeros((2, n, units[1]), dtype=f32)
        n_scored = max(kernel.N_WINDOW, self.n_devices)
        self._units = np.zeros((n_scored, max(units)), dtype=f32)
        self._scores = np.zeros(n_scored)
        self._view_ready = np.zeros((1, kernel.N_READY_FEATURES), dtype=f32)
        self._view_option = np.zeros((self.n_devices, kernel.N_OPTION_FEATURES), dtype=f32)
        self._lay_out_records(1)

    def _room_for_records(self, n_rollouts: int) -> None:
        if n_rollouts > self._n_recorded:
            self._lay_out_records(n_rollouts)
            self._n_recorded = n_rollouts

    def _lay_out_records(self, n: int) -> None:
        n_tasks, window = self._n_tasks, kernel.N_WINDOW
        self._rec = np.zeros((n, n_tasks, 4 + window), dtype=np.int64)
        self._rec_ready = np.zeros((n, n_tasks, window, kernel.N_READY_FEATURES), dtype=np.float32)
        shape = (n, n_tasks, self.n_devices, kernel.N_OPTION_FEATURES)
        self._rec_option = np.zeros(shape, dtype=np.float32)
