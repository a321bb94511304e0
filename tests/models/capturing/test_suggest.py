"""Cells that are proposed: they can be captured, and are what a person would name."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import dynpartition
from dynpartition.errors import ModelError
from dynpartition.models import ModelInput, run_eagerly
from dynpartition.models.capturing import suggest
from dynpartition.models.check import agrees

sys.path.append(str(Path(__file__).parent.parent.parent / "outsiders"))

from early_exit_cnn import EarlyExitCNN
from shift_reduce import ShiftReduceParser
from token_router import TokenRoutingModel


class Clock:
    """Time that passes where a module says so, and a little whenever somebody looks."""

    now_ns = 0

    def perf_counter_ns(self):
        self.now_ns += 1000
        return self.now_ns


CLOCK = Clock()


@pytest.fixture
def clock(monkeypatch):
    """A busy machine takes no longer."""
    monkeypatch.setattr(suggest, "time", CLOCK)


class Slow(nn.Module):
    """A linear layer that takes its time, by our clock."""

    def __init__(self, ms=2.0):
        super().__init__()
        self.linear, self.ms = nn.Linear(4, 4), ms

    def forward(self, x):
        CLOCK.now_ns += round(1e6 * self.ms)
        return self.linear(x)


class Asks(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Slow(), Slow()

    def forward(self, x):
        return self.first(x) if x.sum().item() > 0 else self.second(x)


class Stage(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.Sequential(Slow(1.0), nn.ReLU(), Slow(1.0))

    def forward(self, x):
        return self.parts(x) + 1


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.asks = Asks()
        self.stages = nn.ModuleList(Stage() for _ in range(6))
        self.tiny = nn.Linear(4, 4)

    def forward(self, x, depth=4):
        x = self.tiny(self.asks(x))
        for stage in self.stages[:depth]:
            x = stage(x)
        return x


def test_the_largest_that_ask_for_nothing_with_their_like(clock):
    cells = dynpartition.suggest_cells(Whole().eval(), torch.ones(1, 4))
    assert list(cells) == ["asks.first", *(f"stages.{n}" for n in range(6))]
    assert [cell.calls for cell in cells.cells] == [1, 1, 1, 1, 1, 0, 0]
    assert 0.1 < cells.cells[0].share < 0.4 and cells.cells[0].param_bytes == 80
    assert "stages.3" in str(cells) and "Slow" in str(cells)


def test_what_takes_most_of_the_run_is_looked_into(clock):
    cells = dynpartition.suggest_cells(nn.Sequential(Stage()).eval(), torch.ones(1, 4))
    assert list(cells) == ["0.parts.0", "0.parts.2"]


def test_nothing_worth_a_task_and_training_mode():
    with pytest.raises(ModelError, match="no submodule is worth"):
        dynpartition.suggest_cells(nn.Sequential(nn.Identity()).eval(), torch.ones(1))
    with pytest.raises(ModelError, match="training mode"):
        dynpartition.suggest_cells(nn.Sequential(Slow()), torch.ones(1, 4))


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (EarlyExitCNN(width=16, threshold=2.0), torch.randn(1, 3, 64, 64)),
        (ShiftReduceParser(dim=128), torch.arange(9)),
        (TokenRoutingModel(d_model=128), torch.randn(1, 12, 128)),
    ],
)
def test_the_proposal_can_be_captured(model, example):
    captured = dynpartition.capture(model.eval(), dynpartition.suggest_cells(model, example))
    answer = run_eagerly(ModelInput(captured, example))
    assert agrees(answer, captured.eager(example))
    assert not any(part._forward_hooks for part in model.modules())
