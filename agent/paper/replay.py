"""What DQN remembers: the newest episodes, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dynpartition.types import FloatArray, IntArray


@dataclass
class Replay:
    """At most `size` episodes of M nodes; the oldest gives way."""

    size: int
    max_nodes: int
    n_seen: int = 0
    """Episodes added so far."""
    case: npt.NDArray[np.int32] = field(init=False)
    """(size,) number of the input."""
    actions: npt.NDArray[np.uint16] = field(init=False)
    """(size, M) device of each node."""
    reward: FloatArray = field(init=False)
    """(size,)."""

    def __post_init__(self) -> None:
        self.case = np.zeros(self.size, dtype=np.int32)
        self.actions = np.zeros((self.size, self.max_nodes), dtype=np.uint16)
        self.reward = np.zeros(self.size, dtype=np.float32)

    def __len__(self) -> int:
        return min(self.n_seen, self.size)

    def add(self, cases: Sequence[int], actions: IntArray, rewards: FloatArray) -> None:
        """Remember B episodes: inputs, (B, M) devices, (B,) rewards."""
        rows = (self.n_seen + np.arange(len(cases))) % self.size
        self.case[rows], self.actions[rows], self.reward[rows] = cases, actions, rewards
        self.n_seen += len(cases)

    def sample(
        self, count: int, rng: np.random.Generator
    ) -> tuple[list[int], IntArray, FloatArray]:
        """Return `count` episodes, drawn with replacement, as `add` takes them."""
        rows = rng.integers(len(self), size=count)
        return self.case[rows].tolist(), self.actions[rows].astype(np.int64), self.reward[rows]

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return what `restore` needs."""
        held = len(self)
        return {
            "case": self.case[:held],
            "actions": self.actions[:held],
            "reward": self.reward[:held],
            "n_seen": np.array([self.n_seen], dtype=np.int64),
        }

    def restore(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take over what another memory of this size held."""
        held = len(arrays["case"])
        self.case[:held], self.actions[:held] = arrays["case"], arrays["actions"]
        self.reward[:held], self.n_seen = arrays["reward"], int(arrays["n_seen"][0])
