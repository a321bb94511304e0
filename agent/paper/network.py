"""The paper's network: flattened encoding → a few small layers → a number per node and device."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from dynpartition.agent.paper.cases import Stack
from dynpartition.agent.paper.config import PaperConfig
from dynpartition.agent.paper.encoding import n_columns
from dynpartition.models.seeds import checked_seed


class PaperNetwork(nn.Module):
    """`scores`: encodings (B, M, C) → (B, M, D). `value`: these → (B,), for policy-value."""

    def __init__(self, config: PaperConfig, n_devices: int) -> None:
        super().__init__()
        n_scores = config.max_nodes * n_devices
        n_codes = config.max_nodes * n_columns(config.max_nodes)
        self.shape = (config.max_nodes, n_devices)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(checked_seed(config.seed))
            self.scorer = _layers(n_codes, n_scores, config)
            self.valuer = _layers(n_scores, 1, config) if config.kind == "policy-value" else None

    def forward(self, code: Tensor) -> Tensor:
        """Return the scores."""
        scores: Tensor = self.scorer(code.flatten(1))
        return scores.reshape(-1, *self.shape)

    def value(self, scores: Tensor) -> Tensor:
        """Return what reward to expect where the scores are these: (B,)."""
        assert self.valuer is not None
        value: Tensor = self.valuer(scores.flatten(1))
        return value.squeeze(1)


def _layers(n_inputs: int, n_outputs: int, config: PaperConfig) -> nn.Sequential:
    sizes = [n_inputs, *[config.hidden] * (config.layers - 1), n_outputs]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        linear = nn.Linear(before, after)
        nn.init.xavier_uniform_(linear.weight)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@torch.inference_mode()
def masked_scores(network: PaperNetwork, stack: Stack) -> Tensor:
    """Return (B, M, D) scores, −∞ where a device may not be chosen."""
    scores: Tensor = network(torch.from_numpy(stack.code))
    return scores.masked_fill(~torch.from_numpy(stack.allowed), -torch.inf)
