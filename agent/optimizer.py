"""Adam on one array of weights (Kingma and Ba 2015), with what a checkpoint keeps of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dynpartition.agent.network import flat, unflat, weight_shapes
from dynpartition.types import FloatArray

BETA, BETA_SQUARE, TINY = 0.9, 0.99, 1e-8


class Adam:
    """Climbs gradients; `state` by weight name, as PyTorch's Adam names its own."""

    def __init__(self, n_styles: int, size: int, state: Mapping[str, FloatArray]) -> None:
        self._n_styles = n_styles
        self.n_steps = 0
        self.mean, self.square = np.zeros((2, size), dtype=np.float32)
        if state:
            names = weight_shapes(n_styles)
            self.n_steps = int(state[f"{next(iter(names))}.step"])
            self.mean = flat({name: state[f"{name}.exp_avg"] for name in names})
            self.square = flat({name: state[f"{name}.exp_avg_sq"] for name in names})

    def step(self, weights: FloatArray, gradient: FloatArray, rate: float) -> FloatArray:
        """Return the weights one step up the gradient."""
        self.n_steps += 1
        self.mean = (BETA * self.mean + (1 - BETA) * gradient).astype(np.float32)
        self.square = (BETA_SQUARE * self.square + (1 - BETA_SQUARE) * gradient**2).astype(
            np.float32
        )
        mean = self.mean / (1 - BETA**self.n_steps)
        square = self.square / (1 - BETA_SQUARE**self.n_steps)
        stepped: FloatArray = (weights + rate * mean / (np.sqrt(square) + TINY)).astype(np.float32)
        return stepped

    def state(self) -> dict[str, FloatArray]:
        """Return copies of both moments by weight name, and the number of steps; {} before any."""
        if not self.n_steps:
            return {}
        moments = {"exp_avg": self.mean, "exp_avg_sq": self.square}
        arrays = {
            f"{name}.{moment}": values
            for moment, array in moments.items()
            for name, values in unflat(array, self._n_styles).items()
        }
        steps = np.array(self.n_steps, dtype=np.float32)
        return arrays | {f"{name}.step": steps for name in weight_shapes(self._n_styles)}
