"""Names the cells of the models beside it, and what their inputs look like."""

import torch
from early_exit_cnn import EarlyExitCNN
from shift_reduce import ShiftReduceParser
from token_router import TokenRoutingModel

import dynpartition


def each(make):
    def samples(count, seed):
        seeds = [seed * 100_003 + i for i in range(count)]
        return [make(torch.Generator().manual_seed(one)) for one in seeds]

    return samples


def early_exit(width=8):
    def image(g):
        return torch.randn(1, 3, 32, 32, generator=g) * torch.rand(1, generator=g) * 4

    model = EarlyExitCNN(width=width, threshold=0.26).eval()
    return dynpartition.capture(model, cells=["blocks.*", "exits.*"], samples=each(image))


def parser(dim=16):
    def sentence(g):
        return torch.randint(0, 50, (int(torch.randint(2, 12, (1,), generator=g)),), generator=g)

    model = ShiftReduceParser(dim=dim).eval()
    cells = ["reader", "compose", "scorer"]
    return dynpartition.capture(model, cells=cells, samples=each(sentence))


def router(d_model=16):
    def tokens(g):
        return torch.randn(1, 6, d_model, generator=g)

    model = TokenRoutingModel(d_model).eval()
    cells = ["layers.*.attn", "layers.*.router", "layers.*.experts.*", "head"]
    return dynpartition.capture(model, cells=cells, samples=each(tokens))
