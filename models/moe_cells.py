"""Cells of the mixture of experts. Axes: k tasks of a launch, T tokens, d width, C chunk."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Tokens (k, T, d) → (k, T, d): normalised, attended over all T, added to the input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.projections = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens plus what they attend to."""
        parts = self.projections(self.norm(tokens)).chunk(3, dim=2)
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(query, key, value)  # (k, heads, T, d / heads)
        merged: Tensor = self.merge(attended.transpose(1, 2).flatten(2))
        return tokens + merged


class Router(nn.Module):
    """Tokens (k, T, d) → (k, T, 2): number of the chosen expert (as a float), gate weight."""

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.scores = nn.Linear(width, experts, bias=False)
        # Rows of equal length, at right angles: no expert is favoured.
        nn.init.orthogonal_(self.scores.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the likeliest expert of each token and its probability.

        Where two experts score the same up to rounding, the choice may depend on the batch.
        """
        shares = self.scores(self.norm(tokens)).softmax(dim=2)  # (k, T, experts)
        gate, expert = shares.max(dim=2)
        return torch.stack([expert.to(gate.dtype), gate], dim=2)


class Expert(nn.Module):
    """Tokens (k, T, d) and int64 numbers (k, C) of those to work on → (k, C, d)."""

    def __init__(self, width: int, ffn_multiple: int) -> None:
        super().__init__()
        hidden = ffn_multiple * width
        self.network = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
        )

    def forward(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        """Return the network's output for the chosen tokens only."""
        result: Tensor = self.network(_rows(tokens, chosen))
        return result


class Combine(nn.Module):
    """Tokens (k, T, d), outputs of experts (k, C, d) each, where (k, T, 2) → (k, T, d)."""

    def forward(self, tokens: Tensor, *rest: Tensor) -> Tensor:
        """Return each token plus its gate weight times its row of the experts' outputs.

        The last argument holds per token (row among all outputs in order, gate weight).
        """
        *outputs, where = rest
        rows = _rows(torch.cat(outputs, dim=1), where[:, :, 0].long())
        return tokens + where[:, :, 1:] * rows


class Head(nn.Module):
    """Tokens (k, T, d) → log-probabilities (k, T, classes)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.scores = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the log-softmax over classes for every token."""
        return torch.log_softmax(self.scores(self.norm(tokens)), dim=2)


def _rows(source: Tensor, numbers: Tensor) -> Tensor:
    """Return the rows `numbers` (k, R) of `source` (k, S, d): (k, R, d)."""
    return source.gather(1, numbers.unsqueeze(2).expand(-1, -1, source.shape[2]))
