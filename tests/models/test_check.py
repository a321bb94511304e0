"""A model for every way to break the contract."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from dynpartition.errors import ModelError
from dynpartition.models import DynamicModel, ModelConfig, NewTask, StaticRun, check_model


@dataclass(frozen=True)
class NoConfig(ModelConfig):
    pass


class Cell(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class OneTask(DynamicModel[torch.Tensor]):
    """Runs one cell on its sample; `task` replaces fields of that task."""

    name = "one"
    summary = "for tests"
    config_type = NoConfig

    def __init__(self, function=torch.sin, **task):
        self._function = function
        self._task = task
        super().__init__(NoConfig())

    def _make_cells(self):
        return {"cell": Cell(self._function)}

    def start(self, sample):
        given = {"cell": "cell", "output_shape": (3,), "host_input": sample, "returns": True}
        return StaticRun([NewTask(**{**given, **self._task})], lambda outputs: outputs[0])

    def eager(self, sample):
        return torch.sin(sample)

    def digest(self, sample):
        return "0" * 64

    @classmethod
    def generate(cls, count, seed, config):
        return [torch.rand(3)] * count


SAMPLE = torch.tensor([0.1, 0.2, 0.3])


def test_a_proper_model_passes():
    check_model(OneTask(), [SAMPLE])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"function": torch.cos}, "tasks and eager give different answers"),
        ({"function": lambda x: torch.sin(x).double()}, "gives float64"),
        ({"function": lambda x: torch.sin(x)[:, :2]}, r"\(2,\), not float32 \(3,\)"),
        ({"function": torch.sin_}, "writes to its arguments"),
        ({"function": lambda x: torch.sin(x) + (x - x.mean(0))}, "a row depends on the other"),
        ({"cell": "cel"}, "the model has no such cell"),
        ({"inputs": (0,)}, "must be tasks before it"),
        ({"host_input": None}, "needs an input or a host input"),
        ({"reveals": True}, "reveals nothing"),
    ],
)
def test_what_breaks_the_contract_is_named(broken, message):
    with pytest.raises(ModelError, match=message):
        check_model(OneTask(**broken), [SAMPLE])
