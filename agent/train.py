"""REINFORCE with a per-workload baseline; the same in the simulator and on hardware.

Every update plays each of G workloads R times by sampling from the policy. The advantage of an
episode is its reward minus the mean of the R rewards of its workload, over their spread, so easy
and hard inputs weigh the same and no value network is needed. G·R = B episodes, T decisions,
M legal candidates in all, K candidates per decision, F features, H hidden units.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch

from dynpartition.agent.checkpoint import Checkpoint
from dynpartition.agent.config import TrainConfig
from dynpartition.agent.policy import ILLEGAL, Policy
from dynpartition.agent.rollout import Player, Rollouts
from dynpartition.contract import Backend, Workload
from dynpartition.errors import TrainingError
from dynpartition.types import FloatArray

Metrics = dict[str, float]
"""One JSON line: update, episodes, seconds, reward, entropy, grad_norm; after a validation also
validation (mean greedy reward)."""

Params = dict[str, torch.Tensor]


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
    run = _Run(backend, workloads, validation or workloads[:16], start, config)
    kept = None
    while not run.is_over():
        metrics = run.update()
        on_update(metrics)
        if "validation" in metrics and run.kept() is not kept:
            kept = run.kept()
            on_checkpoint(run.checkpoint())
    return run.result()


class _Run:
    """The state of a training run."""

    def __init__(
        self,
        backend: Backend,
        workloads: Sequence[Workload],
        validation: Sequence[Workload],
        start: Checkpoint | Policy,
        config: TrainConfig,
    ) -> None:
        self.config = config
        self.workloads, self.validation = workloads, validation
        checkpoint = start if isinstance(start, Checkpoint) else Checkpoint(start)
        self.policy = Policy(dict(checkpoint.policy.weights), checkpoint.policy.max_ready)
        self.params: Params = {
            name: torch.tensor(weight, requires_grad=True)
            for name, weight in self.policy.weights.items()
        }
        self.adam = torch.optim.Adam(list(self.params.values()), lr=config.learning_rate)
        restore_optimizer(self.adam, self.params, checkpoint.optimizer)
        repeats = config.baseline_repeats
        self.player = Player(backend, lockstep=config.lockstep, baseline_repeats=repeats)
        self.history: list[Metrics] = []
        self.n_updates = self.n_episodes = 0
        self.best_validation = -np.inf
        # The first episode compiles what a fresh installation has not compiled yet. That may take
        # as long as the whole budget, and nothing is learned meanwhile.
        self.player.play(self.policy, workloads[:1], record=False)
        self.begin_s = time.monotonic()
        self._validate()
        before = checkpoint.training.get("episodes")
        self.n_before = before if isinstance(before, int) else 0

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
        chosen = rng.choice(len(self.workloads), size=config.groups)
        batch = [self.workloads[i] for i in chosen for _ in range(config.rollouts)]  # (B,)
        rollouts = self.player.play(self.policy, batch, rng)
        metrics = self._learn(rollouts)
        self.n_updates += 1
        self.n_episodes += len(batch)
        self.policy.weights = to_numpy(self.params)
        if self.n_updates % config.validate_every == 0:
            metrics["validation"] = self._validate()
        self.history.append(metrics)
        return metrics

    def _learn(self, rollouts: Rollouts) -> Metrics:
        config = self.config
        data = _Batch(rollouts, config.rollouts)
        log_prob = log_softmax_scores(self.params, data)  # (T, K)
        chosen = log_prob.gather(1, data.actions[:, None])[:, 0]  # (T,)
        entropy = -(log_prob.exp() * log_prob.clamp(min=-50)).sum(dim=1).mean()
        bonus = config.entropy * (1 - self.progress())
        # Divided by T, so that the step size does not depend on how large the inputs are.
        loss = -(chosen * data.advantage).sum() / data.n_steps - bonus * entropy
        self.adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.params.values(), config.grad_norm_max)
        self.adam.step()
        return {
            "update": self.n_updates,
            "episodes": self.n_episodes + len(rollouts.rewards),
            "seconds": round(self.seconds(), 3),
            "reward": float(rollouts.rewards.mean()),
            "entropy": entropy.item(),
            "grad_norm": norm.item(),
        }

    def _validate(self) -> float:
        rewards = self.player.play(self.policy, self.validation, record=False).rewards
        score = float(rewards.mean())
        self.last = Policy(copy.deepcopy(self.policy.weights), self.policy.max_ready)
        self.last_validation = score
        if score > self.best_validation:
            self.best_validation = score
            self.best = self.last
            self.best_optimizer = save_optimizer(self.adam, self.params)
        return score

    def result(self) -> TrainResult:
        """Validate the last policy and return the one to keep."""
        if self.history and "validation" not in self.history[-1]:
            self.history[-1]["validation"] = self._validate()
        return TrainResult(self.kept(), self.best_validation, self.checkpoint(), self.history)

    def kept(self) -> Policy:
        """Return the policy that the result would be now; a new object when it has changed."""
        return self.best if self.config.keep == "best" else self.last

    def checkpoint(self) -> Checkpoint:
        """Return the policy to keep with its optimizer and where it comes from."""
        last = self.config.keep == "last"
        training = {
            "config": asdict(self.config),
            "updates": self.n_updates,
            "episodes": self.n_before + self.n_episodes,
            "seconds": round(self.seconds(), 3),
            "validation": self.last_validation if last else self.best_validation,
        }
        optimizer = save_optimizer(self.adam, self.params) if last else self.best_optimizer
        return Checkpoint(self.kept(), optimizer, training)


class _Batch:
    """Rollouts as tensors; only the M legal candidates of the T decisions are kept."""

    def __init__(self, rollouts: Rollouts, n_rollouts: int) -> None:
        masks = np.concatenate([o.mask for o in rollouts.observations]).astype(np.bool_)  # (T, K)
        rows = [o.features[o.mask.astype(np.bool_)] for o in rollouts.observations]
        self.n_steps = len(masks)
        self.mask = torch.from_numpy(masks)
        self.features = torch.from_numpy(np.concatenate(rows))  # (M, F)
        self.count = self.mask.sum(dim=1)  # (T,)
        self.step_of = torch.repeat_interleave(torch.arange(self.n_steps), self.count)  # (M,)
        self.actions = torch.from_numpy(np.concatenate(rollouts.actions))
        episode_of = np.concatenate(rollouts.episode_of)  # (T,)
        self.advantage = torch.from_numpy(advantages(rollouts.rewards, n_rollouts)[episode_of])


def advantages(rewards: FloatArray, n_rollouts: int) -> FloatArray:
    """Return (B,) rewards minus their workload's mean, over its spread; 0 where all are equal."""
    by_workload = rewards.reshape(-1, n_rollouts)  # (G, R)
    centred = by_workload - by_workload.mean(axis=1, keepdims=True)
    spread = by_workload.std(axis=1, keepdims=True)
    scaled: FloatArray = (centred / (spread + 1e-3)).reshape(-1).astype(np.float32)
    return scaled


def log_softmax_scores(w: Params, data: _Batch) -> torch.Tensor:
    """Return (T, K) log probabilities; the same network as `Policy.scores`, differentiable."""
    code = torch.relu(data.features @ w["encode.weight"] + w["encode.bias"])  # (M, H)
    sums = code.new_zeros(data.n_steps, code.shape[1]).index_add(0, data.step_of, code)
    shared = (sums / data.count[:, None]) @ w["context.weight"] + w["mix.bias"]  # (T, H)
    mixed = torch.relu(code @ w["mix.weight"] + shared[data.step_of])  # (M, H)
    score = mixed @ w["score.weight"]  # (M,)
    padded = torch.full(data.mask.shape, float(ILLEGAL)).masked_scatter(data.mask, score)
    return torch.log_softmax(padded, dim=1)  # (T, K)


def to_numpy(params: Params) -> dict[str, FloatArray]:
    """Return copies of the parameters."""
    return {name: param.detach().numpy().copy() for name, param in params.items()}


def save_optimizer(adam: torch.optim.Adam, params: Params) -> dict[str, FloatArray]:
    """Return Adam's state as arrays: `step`, and both moments of every parameter."""
    arrays: dict[str, FloatArray] = {}
    for name, param in params.items():
        state = adam.state.get(param, {})
        for key, value in state.items():
            arrays[f"{name}.{key}"] = np.array(value.numpy(), dtype=np.float32)
    return arrays


def restore_optimizer(
    adam: torch.optim.Adam, params: Params, arrays: Mapping[str, FloatArray]
) -> None:
    """Give Adam the state that `save_optimizer` returned; nothing where there is none."""
    for name, param in params.items():
        keys = ("step", "exp_avg", "exp_avg_sq")
        if all(f"{name}.{key}" in arrays for key in keys):
            adam.state[param] = {key: torch.tensor(arrays[f"{name}.{key}"]) for key in keys}
