import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynpartition.errors import InputError
from dynpartition.models import Expression, ModelInput, build_model, run_eagerly
from dynpartition.models.expressions import generate_expressions


@pytest.fixture(scope="module")
def model():
    return build_model("mathfunc", {"width": 2})


def sample():
    """mul(sin(x), x, add(x, y)) with x used three times."""
    return Expression(
        ("value", "value", "sin", "add", "mul"),
        ((), (), (0,), (0, 1), (2, 0, 3)),
        {0: torch.tensor([0.5, 1.0]), 1: torch.tensor([2.0, 3.0])},
    )


def test_known_value(model):
    expected = [math.sin(0.5) * 0.5 * 2.5, math.sin(1.0) * 1.0 * 4.0]
    assert run_eagerly(ModelInput(model, sample())).tolist() == pytest.approx(expected)
    assert model.eager(sample()).tolist() == pytest.approx(expected)


def test_tasks_are_the_nodes(model):
    graph = ModelInput(model, sample()).graph
    assert graph.input_lists == sample().arguments
    assert graph.returns.tolist() == [0, 0, 0, 0, 1]
    assert graph.host_bytes.tolist() == [8, 8, 0, 0, 0]


def test_shared_nodes_are_evaluated_once(model):
    """Doubling 100 times: 2^100 paths."""
    values = {0: torch.full((2,), 1e-30)}
    doubled = [(i, i) for i in range(100)]
    made = Expression(("value", *["add"] * 100), ((), *doubled), values)
    assert torch.equal(model.eager(made), torch.full((2,), 1e-30) * 2.0**100)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), work=st.integers(1, 4))
def test_work_changes_cost_but_no_result(seed, work):
    (made,) = generate_expressions(1, seed, width=5)
    busy = build_model("mathfunc", {"width": 5, "work": work})
    assert torch.equal(run_eagerly(ModelInput(busy, made)), busy.eager(made))


def test_work_is_repeated():
    cell = build_model("mathfunc", {"work": 3}).cells["sin"]
    calls = []
    cell.function = lambda x: calls.append(1) or x
    cell(torch.ones(1, 2))
    assert len(calls) == 3


def test_width_must_fit():
    wide = build_model("mathfunc", {"width": 3})
    with pytest.raises(InputError, match="2 entries, but the model's width is 3"):
        wide.start(sample())


def test_digest_reads_values(model):
    other = sample()
    other.values[1][0] = 2.5
    assert model.digest(other) != model.digest(sample())
