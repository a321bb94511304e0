"""Training of the paper's agents on any backend, in the simulator in seconds.

Every update plays `play` episodes side by side and takes one step of the learner. Rewards of DQN
are −makespan, in units of what a node takes on the best single device on average, so that values
are of the order of 1 on every machine (the paper: ms); those of policy-value are −log(makespan /
best single device), as everywhere in this package.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from dynpartition.agent.episode import Baseline, reward_of
from dynpartition.agent.paper.agent import PaperAgent, network_weights
from dynpartition.agent.paper.cases import Case, Stack, make_case, stacked
from dynpartition.agent.paper.checkpoint import PaperCheckpoint
from dynpartition.agent.paper.config import PaperConfig
from dynpartition.agent.paper.learner import Episodes, greedy, make_learner
from dynpartition.agent.paper.replay import Replay
from dynpartition.agent.paper.state import learner_facts, restore_state, save_state
from dynpartition.contract import Backend, CompletePlan, Workload
from dynpartition.errors import CheckpointError, TrainingError
from dynpartition.plan import Plan
from dynpartition.types import FloatArray, IntArray

Metrics = dict[str, float]
"""One JSON line: update, episodes, seconds, reward and reward_ms (means of the episodes played),
loss; after a validation also validation (mean greedy reward). `reward` and `validation` are
−log(makespan / best single device); `reward_ms` is −makespan, as the paper reports it."""

SLOWEST = 10
"""A plan that runs out of memory counts as this many times the best single device."""
_VALIDATION_INPUTS = 16
_CHECKPOINT_VALIDATIONS = 20  # without a better agent, after which what was learned is kept anyway


@dataclass
class PaperResult:
    """What a run came to."""

    checkpoint: PaperCheckpoint
    """The best agent in validation, and the state to go on from."""
    best_validation: float
    """Best mean greedy reward; e to the minus that is the mean ratio to the best device."""
    history: list[Metrics] = field(default_factory=list)

    @property
    def agent(self) -> PaperAgent:
        """The best agent in validation."""
        return self.checkpoint.agent


def train_paper_agent(
    backend: Backend,
    workloads: Sequence[Workload],
    config: PaperConfig,
    *,
    start: PaperCheckpoint | None = None,
    validation: Sequence[Workload] = (),
    on_update: Callable[[Metrics], None] = lambda metrics: None,
    on_checkpoint: Callable[[PaperCheckpoint], None] = lambda checkpoint: None,
) -> PaperResult:
    """Train on `workloads` until the budget is used up.

    `start`: go on from there, bit for bit as if training had not stopped at that update (but for
    its last validation); same backend, inputs and configuration, apart from the budget.
    `validation`: inputs to choose the best agent by; default: the first 16. `on_checkpoint` is
    called when the best agent changes, and now and then. Raises TrainingError for inputs that
    reveal tasks as they run, and for a start that does not fit.
    """
    if not workloads:
        raise TrainingError("training needs at least one workload")
    with _one_thread():
        run = _Run(backend, workloads, validation or workloads[:_VALIDATION_INPUTS], config)
        if start is not None:
            run.take_over(start)
        kept_best, kept_update = run.best_validation, run.n_updates
        while not run.is_over():
            on_update(run.update())
            is_old = run.n_updates - kept_update >= _CHECKPOINT_VALIDATIONS * config.validate_every
            if run.best_validation > kept_best or is_old:
                kept_best, kept_update = run.best_validation, run.n_updates
                on_checkpoint(run.checkpoint())
        return run.result()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep PyTorch to one thread: layers this small lose by more, and much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Arena:
    """Inputs on one backend: what the agents see of them, and what their choices earn."""

    def __init__(
        self, backend: Backend, workloads: Sequence[Workload], config: PaperConfig
    ) -> None:
        self._backend = backend
        self._baseline = Baseline(backend)
        self._masked = "no-mask" not in config.defects
        keeps_parents = "parent-channel" not in config.defects
        self.workloads = workloads
        self.cases: list[Case] = []
        for workload in workloads:
            with backend.open(workload) as session:
                if not session.is_complete:
                    raise TrainingError(
                        "an input reveals tasks as it runs; the paper's agents decide once, so"
                        " train them on treelstm or mathfunc"
                    )
                graph = session.graph
            self.cases.append(
                make_case(graph, backend.profile, config.max_nodes, parent_channel=keeps_parents)
            )
        self.best_ns = np.array([self._baseline.best_single_ns(w) for w in workloads])  # (W,)

    @property
    def node_ns(self) -> float:
        """What a node takes on the best single device, on average."""
        return float(self.best_ns.sum()) / sum(len(case.tree) for case in self.cases)

    def stack(self, numbers: Sequence[int]) -> Stack:
        """Return the inputs `numbers` side by side."""
        return stacked([self.cases[number] for number in numbers], masked=self._masked)

    def play(self, numbers: Sequence[int], actions: IntArray) -> tuple[IntArray, IntArray]:
        """Run (B, M) actions; return those that were really taken, and (B,) makespans in ns."""
        choices = [
            self.cases[number].choices(row, Plan())
            for number, row in zip(numbers, actions, strict=True)
        ]
        taken = actions.copy()
        plans = []
        for position, (number, chosen) in enumerate(zip(numbers, choices, strict=True)):
            case = self.cases[number]
            n_nodes = len(case.tree)
            taken[position, :n_nodes] = case.actions_of(chosen)[:n_nodes]
            plans.append(CompletePlan(self.workloads[number], case.priced.graph, chosen))
        times = self._backend.makespans_ns(plans)
        return taken, np.minimum(times, SLOWEST * self.best_ns[list(numbers)])

    def log_ratios(self, numbers: Sequence[int], times_ns: IntArray) -> FloatArray:
        """Return (B,) −log(makespan / best single device)."""
        pairs = zip(times_ns.tolist(), self.best_ns[list(numbers)].tolist(), strict=True)
        return np.array([reward_of(ns, best) for ns, best in pairs], dtype=np.float32)

    def digest(self) -> str:
        """Return what tells these inputs, on these devices, from others."""
        hasher = hashlib.sha256(repr(self.best_ns.tolist()).encode())
        for case in self.cases:
            hasher.update(case.priced.graph.digest.encode())
        return hasher.hexdigest()


class _Run:
    """The state of a training run."""

    def __init__(
        self,
        backend: Backend,
        workloads: Sequence[Workload],
        validation: Sequence[Workload],
        config: PaperConfig,
    ) -> None:
        self.config = config
        self.arena = Arena(backend, workloads, config)
        self.held_out = Arena(backend, validation, config)
        self.devices = backend.profile.cluster.names
        agent = PaperAgent.untrained(config, self.devices)
        self.network = agent.network()
        self.learner = make_learner(self.network, config)
        self.replay = Replay(config.replay, config.max_nodes)
        self.n_updates = self.n_episodes = self.n_before = 0
        self.history: list[Metrics] = []
        self.best = agent
        self.best_validation = -np.inf
        self.begin_s = time.monotonic()
        self.validate()

    def seconds(self) -> float:
        return time.monotonic() - self.begin_s

    def is_over(self) -> bool:
        seconds, episodes = self.config.seconds, self.config.episodes
        by_time = seconds is not None and self.seconds() >= seconds
        by_count = episodes is not None and self.n_episodes - self.n_before >= episodes
        return by_time or by_count

    def update(self) -> Metrics:
        """Play, learn, and now and then validate."""
        config = self.config
        rng = np.random.default_rng(np.random.SeedSequence([config.seed, self.n_updates]))
        numbers = rng.integers(len(self.arena.cases), size=config.plays).tolist()
        stack = self.arena.stack(numbers)
        actions, times_ns = self.arena.play(numbers, self.learner.explore(stack, rng))
        log_ratios = self.arena.log_ratios(numbers, times_ns)
        rewards = self._rewards(times_ns, log_ratios)
        self.n_updates += 1
        self.n_episodes += len(numbers)
        metrics = {
            "update": self.n_updates,
            "episodes": self.n_episodes,
            "reward": float(log_ratios.mean()),
            "reward_ms": -float(times_ns.mean()) / 1e6,
            "loss": self._learn(Episodes(stack, actions, rewards), numbers, rng),
        }
        if self.n_updates % config.validate_every == 0:
            metrics["validation"] = self.validate()
        metrics["seconds"] = round(self.seconds(), 3)
        self.history.append(metrics)
        return metrics

    def _rewards(self, times_ns: IntArray, log_ratios: FloatArray) -> FloatArray:
        if self.config.kind == "dqn" or "unnormalised-log" in self.config.defects:
            return (-times_ns / self.arena.node_ns).astype(np.float32)
        return log_ratios

    def _learn(self, played: Episodes, numbers: Sequence[int], rng: np.random.Generator) -> float:
        if not self.learner.learns_from_replay:
            return self.learner.learn(played)
        self.replay.add(numbers, played.actions, played.rewards)
        drawn, actions, rewards = self.replay.sample(self.config.batch, rng)
        return self.learner.learn(Episodes(self.arena.stack(drawn), actions, rewards))

    def validate(self) -> float:
        numbers = range(len(self.held_out.cases))
        actions = greedy(self.network, self.held_out.stack(numbers))
        _, times_ns = self.held_out.play(numbers, actions)
        score = float(self.held_out.log_ratios(numbers, times_ns).mean())
        if score > self.best_validation:
            self.best_validation = score
            self.best = PaperAgent(network_weights(self.network), self.config, self.devices)
        return score

    def take_over(self, start: PaperCheckpoint) -> None:
        """Go on from a checkpoint."""
        training = start.training
        expected = {"inputs": self.arena.digest(), "learner": learner_facts(self.config)}
        for key, value in expected.items():
            if training.get(key) != value:
                raise TrainingError(
                    f"the checkpoint was trained with other {key}; go on with the same ones, or"
                    " start afresh"
                )
        self.n_updates = int(_number(training, "updates"))
        self.n_episodes = self.n_before = int(_number(training, "episodes"))
        self.best, self.best_validation = start.agent, _number(training, "validation")
        restore_state(self.network, self.learner.adam, start.state)
        memory = {
            name.removeprefix("replay."): array
            for name, array in start.state.items()
            if name.startswith("replay.")
        }
        if memory:
            self.replay.restore(memory)

    def checkpoint(self) -> PaperCheckpoint:
        """Return the best agent with all that `take_over` needs."""
        state = save_state(self.network, self.learner.adam)
        if self.learner.learns_from_replay:
            state |= {f"replay.{name}": array for name, array in self.replay.arrays().items()}
        training = {
            "updates": self.n_updates,
            "episodes": self.n_episodes,
            "seconds": round(self.seconds(), 3),
            "validation": self.best_validation,
            "inputs": self.arena.digest(),
            "learner": learner_facts(self.config),
        }
        return PaperCheckpoint(self.best, state, training)

    def result(self) -> PaperResult:
        if self.history and "validation" not in self.history[-1]:
            self.history[-1]["validation"] = self.validate()
        return PaperResult(self.checkpoint(), self.best_validation, self.history)


def _number(training: Mapping[str, object], key: str) -> float:
    value = training.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise CheckpointError(f"the checkpoint's training.{key} is {value!r}, not a number")
    return value
