"""Cells that few inputs call, or none, are looked for, and measured all the same."""

import pytest
import torch

import dynpartition
from dynpartition import parse_devices
from dynpartition.calibration.measure import calibrate
from dynpartition.calibration.modelling import modelled
from dynpartition.calibration.reaching import reaching, uncalled
from dynpartition.cli.calibrate import describe_profile
from dynpartition.cli.local import check_cells
from dynpartition.models import ModelInput
from dynpartition.models.splitting import part_of


class Rare(torch.nn.Module):
    """Calls `often` always, `seldom` for large samples, `never` for no sample that there is."""

    def __init__(self):
        super().__init__()
        self.often, self.never = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        self.seldom = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))

    def forward(self, x):
        y = self.often(x)
        if y.isfinite().all() and x.max() > 0.9:  # which of the two is known of y alone
            y = self.seldom(y)
        if y.isnan().any():
            y = self.never(y)
        return y


def samples(count, seed):
    g = torch.Generator().manual_seed(seed)
    return [torch.rand(1, 1, generator=g).expand(1, 4).contiguous() for _ in range(count)]


@pytest.fixture(autouse=True)
def short_search(monkeypatch):
    monkeypatch.setattr("dynpartition.calibration.reaching.SEARCHED_MAX", 100)


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Rare().eval()
    return dynpartition.capture(net, cells=["often", "seldom", "never"], samples=samples)


@pytest.fixture(scope="module")
def common(model):
    """Inputs that call one cell."""
    inputs = [ModelInput(model, sample) for sample in samples(12, 3) if sample.max() < 0.9]
    assert uncalled(model, inputs)[:2] == ["seldom", "never"]
    return inputs


def test_inputs_that_reach_a_rare_cell_are_found(model, common):
    more, missing = reaching(model, common, seed=0, seconds=60)
    assert len(more) == 1 and part_of(more[0].digest) == "train"
    assert uncalled(model, more)[0] == "never" and "never" in missing


def test_a_model_without_samples_gets_no_more_inputs(model, common):
    plain = dynpartition.capture(model.module, cells=["often", "seldom", "never"])
    inputs = [ModelInput(plain, item.sample) for item in common]
    found, missing = reaching(plain, inputs, seed=0, seconds=60)
    assert not found
    assert {"seldom", "never"} <= set(missing)


def test_rare_cells_are_measured_and_those_that_nothing_calls_are_named(model, common):
    story = {"model": "rare"}
    profile = calibrate(model, parse_devices("cpu:0"), common, seconds=0.3, provenance=story)
    assert profile.cells["seldom"]["cpu:0"].at(1) > 0
    assert "never" not in profile.cells
    assert "without a cost: never; no input calls them" in describe_profile(profile)
    check_cells(model, profile, "here.json")  # buffers of norms count among the weights
    again = modelled(profile, model, common, "rare")
    assert again.cells == profile.cells and again.provenance["uncalled"] == ["never"]
