"""A transformer block whose feed-forward part is a set of experts, one chosen per token."""

import torch
import torch.nn.functional as F
from torch import nn


class Expert(nn.Module):
    def __init__(self, d_model, d_ff):
        super().__init__()
        self.w1 = nn.Linear(d_model, d_ff)
        self.w2 = nn.Linear(d_ff, d_model)

    def forward(self, x):
        return self.w2(F.gelu(self.w1(x)))


class TokenRoutingBlock(nn.Module):
    def __init__(self, d_model=16, n_heads=2, n_experts=4):
        super().__init__()
        self.norm1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.norm2 = nn.LayerNorm(d_model)
        self.router = nn.Linear(d_model, n_experts)
        self.experts = nn.ModuleList(Expert(d_model, 4 * d_model) for _ in range(n_experts))

    def forward(self, x):
        h = self.norm1(x)
        attended, _ = self.attn(h, h, h, need_weights=False)
        x = x + attended
        flat = self.norm2(x).reshape(-1, x.shape[-1])
        probs = F.softmax(self.router(flat), dim=-1)
        weight, choice = probs.max(dim=-1)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            mask = choice == e
            if mask.any():
                out[mask] = expert(flat[mask]) * weight[mask].unsqueeze(-1)
        return x + out.view_as(x)


class TokenRoutingModel(nn.Module):
    def __init__(self, d_model=16, n_layers=2, n_classes=3):
        super().__init__()
        self.layers = nn.ModuleList(TokenRoutingBlock(d_model) for _ in range(n_layers))
        self.head = nn.Linear(d_model, n_classes)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(dim=1))
