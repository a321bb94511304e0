"""What capture costs, and what requests in flight gain, on one core.

    python benchmarks/capture.py [--trees FILE] [--json FILE]

Capture: recording a binary TreeLSTM (input 300, hidden 150) written in plain PyTorch, against
running it eagerly. Requests in flight: `Runtime.map` with 16 of them against one at a time, on
models whose branches depend on values. Configurations take turns; medians of all rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

import dynpartition
from dynpartition.models import build_model, generate_trees, read_trees
from dynpartition.models.check import agrees
from dynpartition.models.treelstm import word_vector

HIDDEN, INPUT, CLASSES = 150, 300, 3
BRANCHING = {
    "earlyexit": {"width": 256},
    "layerskip": {"width": 256},
    "refine": {"width": 150},
}
"""Models of the zoo whose branches depend on values."""


class Leaf(nn.Module):
    def __init__(self):
        super().__init__()
        self.gates = nn.Linear(INPUT, 3 * HIDDEN)

    def forward(self, x):
        i, o, u = self.gates(x).chunk(3, dim=1)
        c = torch.sigmoid(i) * torch.tanh(u)
        return torch.sigmoid(o) * torch.tanh(c), c


class Composer(nn.Module):
    def __init__(self):
        super().__init__()
        self.gates = nn.Linear(2 * HIDDEN, 5 * HIDDEN)

    def forward(self, left, right):
        i, f, g, o, u = self.gates(torch.cat([left[0], right[0]], dim=1)).chunk(5, dim=1)
        c = torch.sigmoid(i) * torch.tanh(u)
        c = c + torch.sigmoid(f) * left[1] + torch.sigmoid(g) * right[1]
        return torch.sigmoid(o) * torch.tanh(c), c


class Output(nn.Module):
    def __init__(self):
        super().__init__()
        self.scores = nn.Linear(HIDDEN, CLASSES)

    def forward(self, h):
        return self.scores(h).log_softmax(dim=1)


class TreeLSTM(nn.Module):
    """(words, children) of a tree in post-order → log-probabilities of every node."""

    def __init__(self):
        super().__init__()
        self.leaf, self.composer, self.output = Leaf(), Composer(), Output()

    def forward(self, tree):
        states, answers = [], []
        for vector in tree:
            if vector is not None:
                states.append(self.leaf(vector))
            else:
                right, left = states.pop(), states.pop()
                states.append(self.composer(left, right))
            answers.append(self.output(states[-1][0]))
        return torch.cat(answers)


def interleaved(ways, rounds):
    """Return ms per name: medians of rounds in which all ways take turns."""
    taken = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            taken[name].append((time.perf_counter() - begin) * 1e3)
    return {name: statistics.median(ms) for name, ms in taken.items()}


def capture_cost(trees, rounds):
    model = TreeLSTM().eval()
    captured = dynpartition.capture(model, cells=["leaf", "composer", "output"])
    samples = [
        [word_vector(word, INPUT).unsqueeze(0) if word else None for word in tree.words]
        for tree in trees
    ]
    nodes = sum(map(len, samples))

    def eager():
        with torch.no_grad():
            for sample in samples:
                model(sample)

    def record():
        for sample in samples:
            captured.start(sample).opening_block()

    record()
    eager()
    ms = interleaved({"eager": eager, "capture": record}, rounds)
    return {
        "eager_us_per_node": ms["eager"] / nodes * 1e3,
        "capture_us_per_node": ms["capture"] / nodes * 1e3,
        "share": ms["capture"] / ms["eager"],
    }


def in_flight_gain(name, config, rounds, count=64):
    model = build_model(name, config)
    samples = model.samples(count, seed=1)
    with dynpartition.Runtime("cpu:0") as runtime:
        for in_flight in (1, 16):
            answers = runtime.map(model, samples, in_flight=in_flight)
            assert all(
                agrees(answer, model.eager(sample))
                for sample, answer in zip(samples, answers, strict=True)
            )
        ways = {
            "eager": lambda: [model.eager(sample) for sample in samples],
            "one": lambda: runtime.map(model, samples, in_flight=1),
            "sixteen": lambda: runtime.map(model, samples, in_flight=16),
        }
        ms = interleaved(ways, rounds)
    return {
        "model": name,
        "eager_ms": ms["eager"] / count,
        "one_at_a_time_ms": ms["one"] / count,
        "sixteen_in_flight_ms": ms["sixteen"] / count,
        "gain": ms["one"] / ms["sixteen"],
        "gain_over_eager": ms["eager"] / ms["sixteen"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trees", type=Path, help="file of bracketed trees; else generated ones")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    trees = read_trees(asked.trees) if asked.trees else generate_trees(50, seed=0)
    cost = capture_cost(trees[:50], asked.rounds)
    print(
        f"TreeLSTM, hidden {HIDDEN}: eager {cost['eager_us_per_node']:.1f} µs a node, capture"
        f" {cost['capture_us_per_node']:.1f}: {cost['share']:.1%}"
    )
    gains = [in_flight_gain(name, config, asked.rounds) for name, config in BRANCHING.items()]
    print(
        f"{'ms per request':<14} {'eager':>8} {'one':>8} {'sixteen':>8} {'gain':>6} {'eager/16':>9}"
    )
    for row in gains:
        print(
            f"{row['model']:<14} {row['eager_ms']:>8.3f} {row['one_at_a_time_ms']:>8.3f}"
            f" {row['sixteen_in_flight_ms']:>8.3f} {row['gain']:>6.2f}"
            f" {row['gain_over_eager']:>9.2f}"
        )
    if asked.json:
        asked.json.write_text(json.dumps({"capture": cost, "in_flight": gains}, indent=2))


if __name__ == "__main__":
    main()
