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

from dynpartition.agent.checkpoint import Checkpoint
from dynpartition.agent.config import TrainConfig
from dynpartition.agent.lessons import Alone, Case, Course, Crew, Inputs, Source, learn_from
from dynpartition.agent.network import flat, unflat
from dynpartition.agent.optimizer import Adam
from dynpartition.agent.policy import Policy
from dynpartition.agent.rollout import Player, draw_seeds
from dynpartition.contract import Backend, Workload
from dynpartition.errors import TrainingError
from dynpartition.types import FloatArray

Metrics = dict[str, float]
"""One JSON line: update, episodes, seconds, reward, entropy, grad_norm; after a validation also
validation (mean greedy reward)."""

WARM_UP = 20
"""Updates over which the learning rate grows to its full size."""


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
    crew: Crew | None = None,
) -> TrainResult:
    """Train on `workloads` from `start` until the budget is used up.

    `validation`: inputs to choose the best policy by; default: the first 16 workloads. A checkpoint
    goes on with its optimizer. `on_update` gets the metrics of every update, `on_checkpoint` what
    would be the result if training stopped now, whenever that changes after a validation. `crew`:
    who plays the rollouts of these workloads elsewhere (`agent/ray_crew.py`), with the same result.
    """
    if not workloads:
        raise TrainingError("training needs at least one workload")
    player = Player(backend, baseline_repeats=config.baseline_repeats)
    judged = [(player, workload) for workload in validation or workloads[:16]]

    source = Inputs(player, workloads, drawing(config, len(workloads)))
    return train_on(
        *(source, judged, start, config),
        on_update=on_update,
        on_checkpoint=on_checkpoint,
        crew=crew,
    )


def drawing(config: TrainConfig, n_workloads: int) -> Callable[[int], list[int]]:
    """Return which workloads each update plays, by its number."""

    def draw(update: int) -> list[int]:
        rng = np.random.default_rng(np.random.SeedSequence([config.seed, update, 1]))
        chosen: list[int] = rng.choice(n_workloads, size=config.groups).tolist()
        return chosen

    return draw


def train_on(
    source: Source,
    validation: Sequence[Case],
    start: Checkpoint | Policy,
    config: TrainConfig,
    *,
    on_update: Callable[[Metrics], None] = lambda metrics: None,
    on_checkpoint: Callable[[Checkpoint], None] = lambda checkpoint: None,
    crew: Crew | None = None,
) -> TrainResult:
    """Train on the cases of `source`, as `train` does.

    Without `validation`, where every look costs runs, nothing is validated: the last policy is the
    result, and `on_checkpoint` gets what would be the result after every update.
    """
    run = _Run(source, crew or Alone(source), validation, start, config)
    kept = None
    while not run.is_over():
        metrics = run.update()
        on_update(metrics)
        if ("validation" in metrics or not validation) and run.kept() is not kept:
            kept = run.kept()
            on_checkpoint(run.checkpoint())
    return run.result()


def _course_of_two(policy: Policy) -> Course:
    """Return the shortest course there is: two rollouts of each style."""
    styles = np.tile(np.arange(policy.n_styles), 2)
    seeds = np.zeros((1, len(styles)), dtype=np.int64)
    return Course(flat(policy.weights), policy.n_styles, styles, seeds, entropy=0.0)


class _Run:
    """The state of a training run."""

    def __init__(
        self,
        source: Source,
        crew: Crew,
        validation: Sequence[Case],
        start: Checkpoint | Policy,
        config: TrainConfig,
    ) -> None:
        self.config, self.source, self.crew, self.validation = config, source, crew, validation
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
            learn_from((player, workload), self.policy, _course_of_two(self.policy), 0)
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
        numbers = self.source.numbers(self.n_updates)
        left = 1 - self.progress()
        seeds = draw_seeds(rng, len(numbers), len(styles))
        weights, entropy = flat(self.policy.weights), config.entropy * left
        course = Course(weights, n_styles, styles, seeds, entropy)
        lessons = self.crew.learn(numbers, course)
        gradient = np.zeros(self.policy.net.size, dtype=np.float32)
        totals = np.zeros(4)
        for lesson in lessons:  # in this order, whoever came first: sums of floats depend on it
            gradient += lesson.gradient
            totals += lesson.totals
        norm = float(np.linalg.norm(gradient))
        self._step(gradient * min(1.0, config.grad_norm_max / max(norm, 1e-12)), left)
        self.n_updates += 1
        self.n_episodes += len(styles) * len(numbers)
        metrics = {
            "update": self.n_updates,
            "episodes": self.n_episodes,
            "seconds": round(self.seconds(), 3),
            "reward": float(np.mean([lesson.reward for lesson in lessons])),
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
