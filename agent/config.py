"""What a training run can be told; importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dynpartition.errors import TrainingError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Budget, sampling and optimizer of a training run. Training stops at the first limit."""

    seconds: float | None = 60.0
    """Time budget, validation included, compiling before it not; None: no limit."""
    episodes: int | None = None
    """Episode budget; None: no limit."""
    seed: int = 0
    """Everything random comes from it."""
    groups: int = 8
    """Workloads per update."""
    rollouts: int = 16
    """Episodes per workload and update, which are compared with each other; at least two are
    played per style of the policy."""
    learning_rate: float = 1.5e-3
    """After a short warm-up; falls along a cosine to 0 over the budget."""
    entropy: float = 0.05
    """Weight of the entropy bonus; falls linearly to 0 over the budget."""
    grad_norm_max: float = 1.0
    validate_every: int = 20
    """Updates between two validations; the best policy by validation is kept."""
    keep: Literal["best", "last"] = "best"
    """Which policy is the result: the best in validation, or the last one, where validation is too
    noisy to choose by (a few runs on hardware)."""
    baseline_repeats: int = 1
    """Runs per single device, whose median the reward compares with."""
    resume: bool = False
    """Go on where the checkpoint stopped, with its count of updates and episodes: a run cut in two
    comes to the same weights as an uncut one, if its budget is counted in episodes and its policy
    is the last."""

    def __post_init__(self) -> None:
        if self.seconds is None and self.episodes is None:
            raise TrainingError("training has no limit; give seconds or episodes")
        for name, smallest in _SMALLEST.items():
            value = getattr(self, name)
            if value is not None and not value >= smallest:
                raise TrainingError(f"{name} is {value}; it must be at least {smallest}")
        if self.keep not in ("best", "last"):
            raise TrainingError(f"keep is {self.keep!r}; it must be 'best' or 'last'")
        if self.rollouts < 2:
            raise TrainingError("rollouts is 1; a workload's baseline needs at least 2")


_SMALLEST: dict[str, float] = {
    "seconds": 0,
    "episodes": 0,
    "seed": 0,
    "groups": 1,
    "rollouts": 1,
    "learning_rate": 0,
    "entropy": 0,
    "grad_norm_max": 1e-6,
    "validate_every": 1,
    "baseline_repeats": 1,
}
