"""What the training of a paper's agent can be told; importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dynpartition.errors import TrainingError, did_you_mean

AgentKind = Literal["dqn", "policy-value"]
FORMAT, VERSION = "dynpartition-paper-agent", 1
"""Of checkpoints."""
KINDS: tuple[AgentKind, ...] = ("dqn", "policy-value")

DEFECTS = {
    "parent-channel": "the encoding tells a node's own place where its parent's should stand",
    "no-mask": "places beyond the tree count in values and probabilities",
    "unbatched": "one episode per update, and the learner takes its batch one by one",
    "unnormalised-log": "policy-value: logarithms of raw outputs, not of probabilities, on old"
    " episodes, without a baseline",
}
"""Defects of the published code that can be kept, to see what they cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperConfig:
    """Agent, budget and learner. Training stops at the first limit; defaults are the paper's.

    Other than there, 32 episodes are played per update.
    """

    kind: AgentKind = "dqn"
    seconds: float | None = 60.0
    """Time budget, validation included; None: no limit."""
    episodes: int | None = None
    """Episode budget; None: no limit."""
    seed: int = 0
    """Everything random comes from it."""
    max_nodes: int = 128
    """Nodes that the network has room for, M."""
    hidden: int = 16
    """Units of each hidden layer."""
    layers: int = 4
    """Layers with weights."""
    learning_rate: float = 5e-4
    epsilon: float = 0.05
    """DQN: share of the nodes that go to a random device while training."""
    entropy: float = 4.0
    """Policy-value: weight of the mean entropy of a node's choice, which the paper lacks."""
    batch: int = 32
    """Episodes that one step of the learner looks at."""
    play: int = 32
    """Episodes played per update."""
    replay: int = 50_000
    """DQN: episodes remembered."""
    validate_every: int = 50
    """Updates between two validations; the best agent by validation is kept."""
    defects: tuple[str, ...] = ()
    """Names in DEFECTS."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise TrainingError(
                f"no agent is named {self.kind!r}; {did_you_mean(self.kind, KINDS)}"
            )
        if self.seconds is None and self.episodes is None:
            raise TrainingError("training has no limit; give seconds or episodes")
        for name, smallest in _SMALLEST.items():
            value = getattr(self, name)
            if value is not None and not value >= smallest:
                raise TrainingError(f"{name} is {value}; it must be at least {smallest}")
        if self.epsilon > 1:
            raise TrainingError(f"epsilon is {self.epsilon}; it is a share, 0 to 1")
        for defect in self.defects:
            if defect not in DEFECTS:
                remedy = did_you_mean(defect, DEFECTS)
                raise TrainingError(f"no defect is named {defect!r}; {remedy}")

    @property
    def plays(self) -> int:
        """Episodes played per update, defects considered."""
        return 1 if "unbatched" in self.defects else self.play


_SMALLEST: dict[str, float] = {
    "seconds": 0,
    "episodes": 0,
    "seed": 0,
    "max_nodes": 1,
    "hidden": 1,
    "layers": 2,
    "learning_rate": 0,
    "epsilon": 0,
    "entropy": 0,
    "batch": 1,
    "play": 1,
    "replay": 1,
    "validate_every": 1,
}
