import pytest
import torch
from torch import nn

from dynpartition.errors import CheckpointError
from dynpartition.models.weights import dump_weights, fill_weights, parameter_bytes


def cells(bias=True):
    return {"a": nn.Linear(3, 2, bias=bias), "b.c": nn.LayerNorm(4), "none": nn.Identity()}


def test_bytes_hold_every_parameter():
    source, target = cells(), cells()
    fill_weights(target, dump_weights(source))
    assert torch.equal(source["a"].weight, target["a"].weight)
    assert parameter_bytes(source["a"]) == 32
    assert parameter_bytes(source["none"]) == 0


@pytest.mark.parametrize("data", [b"", b"not weights", b"\xff" * 64])
def test_damaged_bytes(data):
    with pytest.raises(CheckpointError, match="the weights are damaged"):
        fill_weights(cells(), data)


def test_cut_short():
    with pytest.raises(CheckpointError, match="damaged"):
        fill_weights(cells(), dump_weights(cells())[:-1])


def test_missing_and_excess_names():
    with pytest.raises(CheckpointError, match="lack 'a/bias'"):
        fill_weights(cells(), dump_weights(cells(bias=False)))
    with pytest.raises(CheckpointError, match="hold 'a/bias' in excess"):
        fill_weights(cells(bias=False), dump_weights(cells()))


def test_weights_that_are_not_finite():
    source = cells()
    with torch.no_grad():
        source["a"].bias[0] = float("nan")
    with pytest.raises(CheckpointError, match="'a/bias' holds NaN"):
        fill_weights(cells(), dump_weights(source))
