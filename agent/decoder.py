"""Plans as a policy makes them: whole rollouts in compiled code, for one graph at a time.

N tasks, D devices, R rollouts, S styles, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynpartition.agent import features_kernel, learning_kernel, policy_kernel, tables_kernel
from dynpartition.agent import network_kernel as kernel
from dynpartition.agent.estimate_kernel import N_LOADING, NEVER
from dynpartition.agent.list_tables import ListGraph, machine_of, most_together
from dynpartition.errors import SchedulerError
from dynpartition.graph import TaskGraph
from dynpartition.plan import Plan
from dynpartition.profile import PricedGraph, Profile
from dynpartition.sim.evaluate import evaluate_many
from dynpartition.sim.prepared import PreparedGraph
from dynpartition.types import FloatArray, IntArray

NOTHING = Plan()
_NO_BATCHES = np.full((1, 1, 2), -1, dtype=np.int64)
GREEDY = -1
"""The seed of a rollout that takes the best choice at each step."""
ONE_DEVICE = -1
"""The style of a plan that uses one device, the one that runs all tasks fastest; −2: the next one,
and so on. No plan where there are fewer that run everything."""
PRICED_MAX, PRICED_PLANS = 256, 4
"""Up to so many tasks, and so many plans, the simulator is asked where weights do not fit."""
DEVICES_MAX = 60
"""Legal options are bits of one integer."""


@dataclass(frozen=True, slots=True)
class Rolled:
    """R plans for what was left of one graph."""

    choices: IntArray
    """(R, T, 3) task, device, whether it joins the launch before it, in order of choice."""
    ends_ns: IntArray
    """(R,) when the last launch ends, by the schedulers' estimate; −1: no legal device was left;
    estimate_kernel.NEVER: given up."""


@dataclass(frozen=True, slots=True)
class Records:
    """What R rollouts saw and did at each of T steps; W = network_kernel.N_WINDOW."""

    steps: IntArray
    """(R, N, 4 + W) how many ready tasks were seen, which was chosen, its option (kind · D +
    device), legal options as bits; then those tasks. A step with 0 ready tasks ends a rollout."""
    ready: FloatArray
    """(R, N, W, N_READY_FEATURES)"""
    option: FloatArray
    """(R, N, O, N_OPTION_FEATURES)"""


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
        self._n_tasks, self._n_styles, self._n_recorded, self._n_cells = 0, 1, 0, 0
        self.n_left, self.n_options = 0, self.n_devices
        self._was_wide, self._n_columns = False, self.n_devices
        self._own: ListGraph | None = None
        self._lay_out(64, 1, 16)

    def begin(self, graph: TaskGraph, planned: Plan = NOTHING) -> None:
        """Turn to a graph of which `planned` is placed."""
        own, self._own = self._own, None
        if own is not None:
            own.give_back()
        lists = ListGraph(graph, machine_of(self._profile), planned)
        self.begin_on(lists, planned)
        self._own = lists

    def begin_on(self, lists: ListGraph, planned: Plan = NOTHING) -> None:
        """Turn to a graph whose tables are known; `planned`: what is placed there."""
        if lists.outcome == tables_kernel.UNPRICED:
            PricedGraph(lists.graph, self._profile)  # raises and says why
        self._lists, self._own = lists, None
        n_tasks = len(lists.graph)
        self.n_left = n_tasks - sum([len(launch.tasks) for launch in planned.launches])
        self._batch_ns, n_kinds = self._batches(lists), 1
        if self._batch_ns.shape[2] > 2:
            n_kinds = features_kernel.N_KINDS
        self.n_options = n_kinds * self.n_devices
        n_loading = lists.slots[0, lists.layout.places.sums + N_LOADING]
        self._is_scarce = bool(n_loading > 0)
        self.is_wide = n_kinds > 1 or self._is_scarce
        self._n_columns = max(self._n_columns, self.n_options)
        self._room(n_tasks, self._n_styles, len(lists.graph.cells))
        if self._was_wide and not self.is_wide:  # what else would be seen there is 0
            self._forget()
        self._was_wide = self.is_wide
        if not self.is_wide:
            self._share[:] = 1.0

    def _batches(self, lists: ListGraph) -> IntArray:
        """Return (K, D, B) durations of launches of b tasks, B = 2 where batches are no choice."""
        graph, machine = lists.graph, lists.machine
        n_options = features_kernel.N_KINDS * self.n_devices
        if graph.durations or not machine.all_linked or n_options > DEVICES_MAX:
            return _NO_BATCHES
        return machine.batches(graph.cells, most_together(len(graph)))

    def think(self, weights: FloatArray, net: kernel.Net) -> None:
        """Let the next plans be those of a policy, whose graph network looks at the graph first."""
        self._weights, self._net, self._thinks = weights, net, True
        graph = self._lists.graph
        self._room(len(graph), net.n_styles, len(graph.cells))

    def roll(
        self, styles: IntArray, seeds: IntArray, *, records: bool = False, prunes: bool = False
    ) -> Rolled:
        """Play a plan for each style (ONE_DEVICE: all on the best one) and seed (GREEDY: no dice).

        `prunes`: give up a plan as soon as an earlier one is as good.
        """
        n = len(styles)
        if records:
            self._room_for_records(n)
        choices = np.empty((n, self.n_left, 3), dtype=np.int64)
        ends_ns = np.empty(n, dtype=np.int64)
        lists = self._lists
        policy_kernel.roll_many(
            lists.slots[1],
            lists.slots[0],
            lists.layout.array,
            lists.order,
            self._weights,
            self._net,
            self._about,
            self._near,
            self._z,
            self._facts,
            self._coded,
            self._mixed,
            self._sums,
            self._priority,
            self._to_ready,
            self._to_option,
            self._by_priority,
            self._place_of,
            self._words,
            self._fresh,
            self._related,
            self._left,
            self._left_of,
            self._ready_of,
            self._window,
            self._same,
            self._units[0],
            self._scores,
            self._batch_ns,
            self._share,
            self._mates,
            self._tally,
            int(self.is_wide),
            self.n_options // self.n_devices,
            styles,
            seeds,
            choices,
            ends_ns,
            int(self._thinks),
            int(prunes),
            int(records),
            self._rec,
            self._rec_ready,
            self._rec_option,
            self._view_ready,
            self._view_option,
        )
        self._thinks = False
        return Rolled(choices, ends_ns)

    def best_of(self, rolled: Rolled) -> int:
        """Return which plan is best, −1 if there is none.

        The estimate chooses. Where inputs come from the host, it sends them first, as a run does.
        Where weights do not all fit, the simulator chooses among the best: outputs crowd weights
        out, which the estimate does not follow, and then all may be loaded again and again.
        """
        ends_ns = rolled.ends_ns
        kept = np.flatnonzero((ends_ns >= 0) & (ends_ns < NEVER))
        if not len(kept):
            return -1
        kept = kept[ends_ns[kept].argsort(kind="stable")]
        n_tasks = len(self._lists.graph)
        if len(kept) > 1 and self._is_scarce and self.n_left == n_tasks <= PRICED_MAX:
            kept = kept[:PRICED_PLANS]
            kept = kept[[self._simulated_ns(rolled.choices[kept]).argmin()]]
        elif self._lists.given.host_bytes.any():
            # Of one plan, too: what is compiled for it must not come up in some later decision.
            kept = kept[[np.argmin([self.fed_first_ns(rolled.choices[each]) for each in kept])]]
        return int(kept[0])

    def fed_first_ns(self, choices: IntArray) -> int:
        """Return when choices end if all host inputs travel before anything else; see `roll`."""
        lists = self._lists
        slots, layout = lists.slots, lists.layout.array
        end_ns: int = policy_kernel.fed_first_ns(
            slots[1], slots[0], layout, choices, self._batch_ns, self._mates
        )
        return end_ns

    def _simulated_ns(self, choices: IntArray) -> IntArray:
        """Return (R,) what the simulator says of whole plans (R, T, 3)."""
        graph = PreparedGraph(PricedGraph(self._lists.graph, self._profile))
        return evaluate_many([graph] * len(choices), [*choices], self._profile)

    @property
    def records(self) -> Records:
        """What the rollouts of the last call saw; overwritten by the next."""
        return Records(self._rec, self._rec_ready, self._rec_option)

    @property
    def facts(self) -> FloatArray:
        """(N, N_STATIC) what the graph network was told of each task."""
        return self._facts[: len(self._lists.graph)]

    def learn(
        self,
        gradient: FloatArray,
        styles: IntArray,
        advantages: npt.NDArray[np.float64],
        entropy: float,
        totals: npt.NDArray[np.float64],
    ) -> None:
        """Add the gradient of Σ advantage · log probability of the recorded rollouts, and more."""
        lists = self._lists
        learning_kernel.learn(
            lists.slots[0],
            lists.layout.array,
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
            self.n_options,
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

    def _room(self, n: int, n_styles: int, n_cells: int) -> None:
        if (
            n > self._n_tasks
            or n_styles != self._n_styles
            or n_cells > self._n_cells
            or self._n_columns > len(self._view_option)
        ):
            self._lay_out(max(n, self._n_tasks), n_styles, max(n_cells, self._n_cells))

    def _lay_out(self, n: int, n_styles: int, n_cells: int) -> None:
        self._n_tasks, self._n_styles, self._n_cells = n, n_styles, n_cells
        self._n_recorded = 0
        f32, units = np.float32, (kernel.N_READY_UNITS, kernel.N_OPTION_UNITS)
        self._z = np.zeros((n, 8))
        self._about = np.zeros(features_kernel.ABOUT_DEVICES + 4 * features_kernel.MAX_DEVICES)
        self._near, self._by_priority, self._place_of = np.zeros((3, n), dtype=np.int64)
        self._fresh = np.zeros((n, 4), dtype=np.int64)
        self._words = np.zeros(n // policy_kernel.WORD + 2, dtype=np.int64)
        self._related = np.zeros((n, self.n_devices + 1), dtype=np.int64)
        self._left = np.zeros(self.n_devices)
        self._left_of, self._ready_of = np.zeros((2, n_cells), dtype=np.int64)
        self._share = np.ones((n_cells, self.n_devices))
        self._mates = np.zeros(most_together(n) + 1, dtype=np.int64)
        self._tally = np.zeros((2, features_kernel.MAX_DEVICES), dtype=np.int64)
        self._window = np.zeros(kernel.N_WINDOW, dtype=np.int64)
        self._same = np.zeros(self._n_columns, dtype=np.int64)
        self._facts = np.zeros((n, kernel.N_STATIC), dtype=f32)
        self._coded, self._mixed, self._d_coded = np.zeros((3, n, kernel.N_EMBEDDED), dtype=f32)
        self._sums = np.zeros((6, kernel.N_EMBEDDED), dtype=f32)
        self._priority, self._d_priority = np.zeros((2, n, n_styles), dtype=f32)
        self._to_ready, self._d_ready = np.zeros((2, n, units[0]), dtype=f32)
        self._to_option, self._d_option = np.zeros((2, n, units[1]), dtype=f32)
        n_scored = max(kernel.N_WINDOW, self._n_columns)
        self._units = np.zeros((n_scored, max(units)), dtype=f32)
        self._scores = np.zeros(n_scored)
        self._view_ready = np.zeros((kernel.N_WINDOW, kernel.N_READY_FEATURES), dtype=f32)
        self._view_option = np.zeros((self._n_columns, kernel.N_OPTION_FEATURES), dtype=f32)
        self._lay_out_records(1)

    def _forget(self) -> None:
        for seen in (
            *(self._facts, self._view_ready, self._view_option),
            *(self._rec_ready, self._rec_option),
        ):
            seen[:] = 0

    def _room_for_records(self, n_rollouts: int) -> None:
        if n_rollouts > self._n_recorded:
            self._lay_out_records(n_rollouts)
            self._n_recorded = n_rollouts

    def _lay_out_records(self, n: int) -> None:
        n_tasks, window = self._n_tasks, kernel.N_WINDOW
        self._rec = np.zeros((n, n_tasks, 4 + window), dtype=np.int64)
        self._rec_ready = np.zeros((n, n_tasks, window, kernel.N_READY_FEATURES), dtype=np.float32)
        shape = (n, n_tasks, self._n_columns, kernel.N_OPTION_FEATURES)
        self._rec_option = np.zeros(shape, dtype=np.float32)
