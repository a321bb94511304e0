"""Operations of cells, counted by hand where that is easy."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynpartition.calibration.operations import Operation, count_operations
from dynpartition.errors import CalibrationError
from dynpartition.models import MODELS, build_model
from dynpartition.models.capturing.model import CapturedModel
from dynpartition.models.mathfunc import MathFunc, MathFuncConfig
from dynpartition.models.model import NewTask, StaticRun
from dynpartition.models.variants import VariedCell

FLOAT = 4


def test_an_output_cell_is_a_product_and_a_softmax():
    model = build_model("treelstm", {"hidden_dim": 10, "classes": 3})
    operations = count_operations(model, model.generate(1, 0, model.config), (1, 5))["output"]
    for k in (1, 5):
        product, softmax = operations[k]
        assert product.flops == 2 * k * 10 * 3
        weights, rows, scores = 10 * 3 + 3, k * 10, k * 3
        assert product.moved_bytes == FLOAT * (weights + rows + scores)
        assert softmax == Operation(k * 3, FLOAT * 2 * k * 3)


def test_views_are_no_operations():
    class Viewed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(len(x), 2, -1).transpose(1, 2)[:, 1:].sin()

    model = MathFunc(MathFuncConfig(width=8))
    model.cells = {"only": Viewed()}
    model.start = lambda sample: StaticRun(
        [NewTask(cell="only", output_shape=(3, 2), host_input=torch.ones(8))], lambda outputs: None
    )
    (operation,) = count_operations(model, [None], (2,))["only"][2]
    assert operation == Operation(2 * 6, FLOAT * 2 * (2 * 6))


@pytest.mark.parametrize("name", MODELS)
def test_every_cell_of_every_model_is_counted_and_grows_with_the_launch(name):
    model = build_model(name)
    counted = count_operations(model, model.generate(16, 0, model.config), (1, 4))
    uncalled = [cell for name, cell in model.cells.items() if name not in counted]
    assert all(isinstance(cell, VariedCell) and cell.is_optional for cell in uncalled)
    for launches in counted.values():
        one, four = launches[1], launches[4]
        flops, moved = (
            [sum(getattr(op, what) for op in row) for row in (one, four)]
            for what in ("flops", "moved_bytes")
        )
        if len(one) == len(four):
            assert flops[1] == 4 * flops[0] > 0
            assert moved[0] < moved[1] <= 4 * moved[0]  # weights are read once
        else:  # a captured cell that cannot take batches: task by task, and put together
            assert isinstance(model, CapturedModel)
            assert len(four) >= 4 * len(one)
            assert flops[1] >= 4 * flops[0] > 0


def test_attention_counts_both_products():
    model = build_model("moe", {"width": 16, "heads": 2})
    counted = count_operations(model, model.generate(16, 0, model.config), (3,))
    attention = counted["block0.attention"][3]
    tokens, width, k = 32, 16, 3
    products = 2 * (2 * k * tokens * tokens * width)  # all heads together are as wide
    assert any(op.flops == products for op in attention)


def test_a_cell_that_no_sample_calls_is_named():
    model = build_model("moe", {"experts": 64})
    with pytest.raises(CalibrationError, match=r"no sample calls .*expert_"):
        count_operations(model, model.generate(1, 0, model.config), (1,))
