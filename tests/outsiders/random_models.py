"""A module whose forward does what a random program says: cells, glue, branches on values."""

import random

import torch
import torch.nn.functional as F
from torch import nn

import dynpartition

WIDTH = 6


class Mix(nn.Module):
    """Two values to one."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, a, b):
        return torch.tanh(self.linear(torch.cat([a, b], dim=-1)))


class Halves(nn.Module):
    """One value to two, in a tuple."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, x, *, scale=1.0):
        left, right = self.linear(x).chunk(2, dim=-1)
        return torch.sigmoid(left) * scale, right.clone()


class Count(nn.Module):
    """A value to another one and whole numbers."""

    def forward(self, x):
        order = x.argsort(dim=-1)
        return {"sorted": x.sort(dim=-1).values, "order": order}


def glue(dice, value, other):
    """Return something made of two values of shape (…, WIDTH), of the same shape."""
    choice = dice.randrange(16)
    if choice == 0:
        return value + other
    if choice == 1:
        return torch.cat([value[..., :2], other[..., 2:]], dim=-1)
    if choice == 2:
        return F.softmax(value, dim=-1) * 2
    if choice == 3:
        return torch.stack([value, other]).mean(dim=0)
    if choice == 4:
        first, second = value.chunk(2, dim=-1)
        return torch.cat((second, first), dim=-1)
    if choice == 5:
        return torch.where(value > other, value, -other)
    if choice == 6:
        return value.view(-1, WIDTH)[0].expand_as(other) - 0.5
    if choice == 7:
        total = value.clone()
        total += other
        total[..., 1] = 0.25
        return total
    if choice == 8:
        return value.max(dim=-1, keepdim=True).values + other
    if choice == 9:
        return value.unsqueeze(0).squeeze(0) / (1 + other.abs())
    if choice == 10:
        blank = torch.zeros(value.shape)
        blank[..., 2:4] = other[..., :2]
        return blank + value
    if choice == 11:
        return value.double().pow(2).float().clamp(max=1.5)
    if choice == 12:
        return F.layer_norm(value, (WIDTH,))
    if choice == 13:
        keep = (value > 0).flatten()
        flat = other.flatten().clone()
        flat[keep] = value.flatten()[keep] * 0.5
        return flat.view(other.shape)
    if choice == 14:
        return value.gather(-1, other.argsort(dim=-1))
    return value.detach().to(torch.float32).contiguous().neg().relu() + other.T.T


class RandomModel(nn.Module):
    """Follows the dice of its sample: (seed, length, tensors)."""

    def __init__(self):
        super().__init__()
        self.mix, self.halves, self.count = Mix(), Halves(), Count()
        self.bias = nn.Parameter(torch.randn(WIDTH))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, sample):
        seed, length, values = sample
        dice, values, log = random.Random(seed), list(values), []
        for _ in range(length):
            a, b = dice.choice(values), dice.choice(values)
            choice = dice.randrange(10)
            if choice < 2:
                values.append(self.mix(a, b))
            elif choice == 2:
                values.extend(self.halves(a, scale=dice.choice([1.0, 0.5])))
            elif choice == 3:
                made = self.count(a)
                values.append(made["sorted"])
                values.append(b.gather(-1, made["order"]))
            elif choice == 4 and float(a.sum()) > float(b.mean()) + 0.1:  # far from ties
                log.append("more")
                values.append(a - b)
            elif choice == 5:
                log.append(int(a.argmax()))
                values.append(self.norm(b + self.bias))
            else:
                values.append(glue(dice, a, b))
        last = self.mix(values[-1], values[-2])
        return {"last": last, "some": values[-3:], "log": log, "best": last.max().item()}


def random_samples(count, seed):
    dice = [random.Random(f"{seed} {i}") for i in range(count)]
    generators = [torch.Generator().manual_seed(one.randrange(2**31)) for one in dice]
    return [
        (one.randrange(10**6), one.randrange(2, 24), [torch.randn(1, WIDTH, generator=g)] * 2)
        for one, g in zip(dice, generators, strict=True)
    ]


def random_model():
    return dynpartition.capture(
        RandomModel().eval(), ["mix", "halves", "count"], samples=random_samples
    )
