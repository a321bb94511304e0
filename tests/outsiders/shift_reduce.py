"""A small shift-reduce parser that composes phrases while it decides what to do next."""

import torch
from torch import nn


class Compose(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.mix = nn.Linear(2 * dim, 2 * dim)

    def forward(self, left, right):
        gate, new = self.mix(torch.cat((left, right), dim=-1)).chunk(2, dim=-1)
        gate = torch.sigmoid(gate)
        return gate * torch.tanh(new) + (1 - gate) * 0.5 * (left + right)


class Scorer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3 * dim, dim), nn.ReLU(), nn.Linear(dim, 2))

    def forward(self, state, top, nxt):
        return self.net(torch.cat([state, top, nxt], dim=-1))


class ShiftReduceParser(nn.Module):
    def __init__(self, vocab=50, dim=16):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.reader = nn.LSTMCell(dim, dim)
        self.compose = Compose(dim)
        self.scorer = Scorer(dim)
        self.empty = nn.Parameter(torch.zeros(dim))
        self.dim = dim

    def forward(self, tokens):
        words = self.embed(tokens)
        buffer = [w for w in words]
        stack, actions = [], []
        state = (torch.zeros(1, self.dim), torch.zeros(1, self.dim))
        while buffer or len(stack) > 1:
            top = stack[-1] if stack else self.empty
            nxt = buffer[0] if buffer else self.empty
            if buffer and len(stack) >= 2:
                scores = self.scorer(state[0].squeeze(0), top, nxt)
                shift = bool(scores[0] > scores[1])
            else:
                shift = bool(buffer)
            if shift:
                word = buffer.pop(0)
                stack.append(word)
                state = self.reader(word.unsqueeze(0), state)
            else:
                right = stack.pop()
                left = stack.pop()
                stack.append(self.compose(left, right))
            actions.append("S" if shift else "R")
        return stack[0], "".join(actions)
