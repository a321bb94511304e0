"""Policy gradients by comparison; the same in the simulator and on hardware.

An update plays each of G cases R times, drawing every choice; styles take turns, so R = S·K for K
styles. A rollout is judged by its rank among the R of its case: what is bad does not outweigh what
is good, easy and hard inputs count the same, and no value network is needed. Each style is compared
with itself; what its best plan adds to the other styles' counts besides, so that styles differ
(Grinsztajn et al. 2023, Poppy). The gradient is computed in compiled code; PyTorch is not needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt

from dynpartition.agent.checkpoint import Checkpoint
from dynpartition.agent.config import TrainConfig
from dynpartition.agent.network import flat, unflat
from dynpartition.agent.optimizer import Adam
from dynpartition.agent.policy import Policy
from dynpartition.agent.rollout import Player
from dynpartition.contract import Backend, Workload
from dynpartition.errors import TrainingError
from dynpartition.types import FloatArray, IntArray

Metrics = dict[str, float]
"""One JSON line: update, episodes, seconds, reward, entropy, grad_norm; after a validation also
validation (mean greedy reward)."""

Case = tuple[Player, Workload]
"""An input, and who plays it on its backend."""

WARM_UP = 20
"""Updates over which the learning rate grows to its full size."""
ADDED_SHARE = 0.3
"""What counts of a rollout for what it adds to those of other styles."""
TOP_SHARE, TOP_WEIGHT = 0.1, 10.0
"""The best share of rollouts is told apart by so much more than the others."""


@dataclass
class TrainResult:
    """What a run came to."""

    policy: Policy
    """The best policy in validation (the given one, if none was better), or the last."""
    best_validation: float
    """Best mean greedy reward; e to the minus that is the mean ratio to the best device."""
    checkpoint: Checkpoint
    """`policy` with the optimizer's state and where it comes from."""
    history: list[Metrics] = field(default_factory=list)


def train(
    backend: Backend,
    workloads: Sequence[Workload],
    start: Checkpoint | Policy,
    config: TrainConfig,
    *,
    validation: Sequence[Workload] = (),
    on_update: Callable[[Metrics], None] = lambda metrics: None,
    on_checkpoint: Callable[[Checkpoint], None] = lambda checkpoint: None,
) -> TrainResult:
    """Train on `workloads` from `start` until the budget is used up.

    `validation`: inputs to choose the best policy by; default: the first 16 workloads. A checkpoint
    goes on with its optimizer. `on_update` gets the metrics of every update, `on_checkpoint` what
    would be the result if training stopped now, whenever that changes after a validation.
    """
    if not workloads:
        raise TrainingError("training needs at least one workload")
    player = Player(backend, baseline_repeats=config.baseline_repeats)
    judged = [(player, workload) for workload in validation or workloads[:16]]

    def draw(number: int) -> list[Case]:
        rng = np.random.default_rng(np.random.SeedSequence([config.seed, number, 1]))
        chosen = rng.choice(len(workloads), size=config.groups)
        return [(player, workloads[i]) for i in chosen.tolist()]

    return train_on(draw, judged, start, config, on_update=on_update, on_checkpoint=on_checkpoint)


def train_on(
    draw: Callable[[int], Sequence[Case]],
    validation: Sequence[Case],
    start: Checkpoint | Policy,
    config: TrainConfig,
    *,
    on_update: Callable[[Metrics], None] = lambda metrics: None,
    on_checkpoint: Callable[[Checkpoint], None] = lambda checkpoint: None,
) -> TrainResult:
    """Train on the cases that `draw` returns for each update number, as `train` does.

    Without `validation`, where every look costs runs, nothing is validated: the last policy is the
    result, and `on_checkpoint` gets what would be the result after every update.
    """
    run = _Run(draw, validation, start, config)
    kept = None
    while not run.is_over():
        metrics = run.update()
        on_update(metrics)
        if ("validation" in metrics or not validation) and run.kept() is not kept:
            kept = run.kept()
            on_checkpoint(run.checkpoint())
    return run.result()


class _Run:
    """The state of a training run."""

    def __init__(
        self,
        draw: Callable[[int], Sequence[Case]],
        validation: Sequence[Case],
        start: Checkpoint | Policy,
        config: TrainConfig,
    ) -> None:
        self.config, self.draw, self.validation = config, draw, validation
        checkpoint = start if isinstance(start, Checkpoint) else Checkpoint(start)
        self.policy = checkpoint.policy
        size = self.policy.net.size
        self.adam = Adam(self.policy.n_styles, size, checkpoint.optimizer)
        self.history: list[Metrics] = []
        self.n_updates = self.n_episodes = self.n_before = 0
        self._go_on(checkpoint)
        self.best_validation = self.last_validation = -np.inf
        # The first episode compiles what a fresh installation has not compiled yet. That may take
        # as long as the whole budget, and nothing is learned meanwhile.
        for player, workload in validation[:1]:
            player.greedy(self.policy, [workload])
        self.begin_s = time.monotonic()
        self._validate()

    def _go_on(self, checkpoint: Checkpoint) -> None:
        """Count from what the checkpoint has seen; where it is to be resumed, in its schedule."""
        before = checkpoint.training.get("episodes")
        self.n_before = before if isinstance(before, int) else 0
        updates = checkpoint.training.get("updates")
        if self.config.resume and isinstance(updates, int):
            self.n_updates, self.n_episodes, self.n_before = updates, self.n_before, 0

    def progress(self) -> float:
        """Return the share of the budget that is used, 0…1."""
        seconds, episodes = self.config.seconds, self.config.episodes
        by_time = self.seconds() / seconds if seconds else float(seconds == 0)
        by_count = self.n_episodes / episodes if episodes else float(episodes == 0)
        return min(1.0, max(by_time, by_count))

    def is_over(self) -> bool:
        # A budget that the first validation uses up is still good for one update.
        has_begun = self.n_updates > 0 or 0 in (self.config.seconds, self.config.episodes)
        return has_begun and self.progress() >= 1

    def seconds(self) -> float:
        return time.monotonic() - self.begin_s

    def update(self) -> Metrics:
        """Play, learn, and now and then validate."""
        config = self.config
        rng = np.random.default_rng(np.random.SeedSequence([config.seed, self.n_updates]))
        n_styles = self.policy.n_styles
        n_rounds = max(2, config.rollouts // n_styles)
        styles = np.tile(np.arange(n_styles), n_rounds)
        cases = self.draw(self.n_updates)
        left = 1 - self.progress()
        gradient = np.zeros(self.policy.net.size, dtype=np.float32)
        totals, rewards = np.zeros(4), []
        for player, workload in cases:
            rollouts = player.sample(self.policy, workload, styles, rng)
            # Divided by decisions, so that the step size does not depend on how large inputs are.
            share = 1 / max(1, rollouts.n_decisions * len(cases))
            weights = advantages(rollouts.makespans_ns, n_styles) * share
            bonus = config.entropy * left * share
            totals += player.learn(self.policy, rollouts, weights, bonus, gradient)
            rewards.append(float(rollouts.rewards.mean()))
        norm = float(np.linalg.norm(gradient))
        self._step(gradient * min(1.0, config.grad_norm_max / max(norm, 1e-12)), left)
        self.n_updates += 1
        self.n_episodes += len(styles) * len(cases)
        metrics = {
            "update": self.n_updates,
            "episodes": self.n_episodes,
            "seconds": round(self.seconds(), 3),
            "reward": float(np.mean(rewards)),
            "entropy": float((totals[0] + totals[2]) / max(1, totals[1] + totals[3])),
            "grad_norm": norm,
        }
        if self.validation and self.n_updates % config.validate_every == 0:
            metrics["validation"] = self._validate()
        self.history.append(metrics)
        return metrics

    def _step(self, gradient: FloatArray, left: float) -> None:
        """Go one step: warm-up, then half a cosine down to 0 at the end of the budget."""
        warm = min(1.0, (self.adam.n_steps + 1) / WARM_UP)
        rate = self.config.learning_rate * warm * 0.5 * (1 - float(np.cos(np.pi * left)))
        weights = self.adam.step(flat(self.policy.weights), gradient.astype(np.float32), rate)
        self.policy = Policy(unflat(weights, self.policy.n_styles))

    def _validate(self) -> float:
        if not self.validation:
            return self.last_validation
        by_player: dict[int, tuple[Player, list[Workload]]] = {}
        for player, workload in self.validation:
            by_player.setdefault(id(player), (player, []))[1].append(workload)
        rewards = [player.greedy(self.policy, work) for player, work in by_player.values()]
        score = float(np.concatenate(rewards).mean())
        self.last, self.last_validation = self.policy, score
        if score > self.best_validation:
            self.best_validation = score
            self.best, self.best_optimizer = self.policy, self.adam.state()
        return score

    def result(self) -> TrainResult:
        """Validate the last policy and return the one to keep."""
        if self.validation and self.history and "validation" not in self.history[-1]:
            self.history[-1]["validation"] = self._validate()
        return TrainResult(self.kept(), self.best_validation, self.checkpoint(), self.history)

    def kept(self) -> Policy:
        """Return the policy that the result would be now; a new object when it has changed."""
        if not self.validation:
            return self.policy
        return self.best if self.config.keep == "best" else self.last

    def checkpoint(self) -> Checkpoint:
        """Return the policy to keep with its optimizer and where it comes from."""
        last = self.config.keep == "last" or not self.validation
        training: dict[str, object] = {
            "config": asdict(self.config),
            "updates": self.n_updates,
            "episodes": self.n_before + self.n_episodes,
            "seconds": round(self.seconds(), 3),
        }
        if self.validation:
            training["validation"] = self.last_validation if last else self.best_validation
        optimizer = self.adam.state() if last else self.best_optimizer
        return Checkpoint(self.kept(), optimizer, training)


def advantages(makespans_ns: IntArray, n_styles: int) -> npt.NDArray[np.float64]:
    """Return (R,) how much better each rollout was than those of its style; styles take turns.

    In part from what sets it apart from other rollouts of its style, in part (ADDED_SHARE) from
    what it adds to the other styles' of its turn. Zeros where all are equal.
    """
    ranked = _ranks(makespans_ns).reshape(-1, n_styles)  # (S, K)
    spread = ranked.std() + 1e-3
    own: npt.NDArray[np.float64] = (ranked - ranked.mean(axis=0)) / spread
    if n_styles == 1:
        return own.reshape(-1)
    ordered = np.sort(ranked, axis=1)
    added = np.zeros_like(ranked)
    winner = ranked.argmax(axis=1)
    added[np.arange(len(ranked)), winner] = (ordered[:, -1] - ordered[:, -2]) / spread
    mixed: npt.NDArray[np.float64] = (1 - ADDED_SHARE) * own + ADDED_SHARE * n_styles * added
    return mixed.reshape(-1)


def _ranks(makespans_ns: IntArray) -> npt.NDArray[np.float64]:
    """Return (R,) from 0, the slowest, to 1, equal for equal ones; the top is stretched."""
    _, place, count = np.unique(makespans_ns, return_inverse=True, return_counts=True)
    behind = np.cumsum(count) - (count + 1) / 2  # mean place of those that are equal
    share = 1 - behind[place] / max(1, len(makespans_ns) - 1)
    top = np.maximum(share - (1 - TOP_SHARE), 0)
    ranks: npt.NDArray[np.float64] = share + TOP_WEIGHT * top
    return ranks
