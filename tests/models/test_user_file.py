"""Models of users' files: how they are named, built, and refused."""

import pytest
import torch

import dynpartition
from dynpartition.cli.options import parse_model
from dynpartition.errors import DeviceError, ModelError, UsageError
from dynpartition.hardware import HardwareBackend
from dynpartition.models import generate_inputs
from dynpartition.models.check import agrees

FILE = """
import torch
from torch import nn
import dynpartition

def samples(count, seed):
    return [torch.full((1, 4), float(seed + n)) for n in range(count)]

def build(width=3):
    net = nn.Sequential(nn.Linear(4, width), nn.Tanh()).eval()
    return dynpartition.capture(net, cells=["0"], name="mine", samples=samples)

def module():
    return nn.Linear(3, 3)

def number():
    return 7

class Holder:
    build = staticmethod(build)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "their_model.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "their_model.py"


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("their_model:build", 3),
        ("their_model.py:build", 3),
        ("./their_model.py:build:width=5", 5),
        ("their_model:Holder.build: width = 7", 7),
    ],
)
def test_a_model_is_named_as_module_or_file(place, text, width):
    model = parse_model(text, seed=1)
    assert model.name == "mine" and model.cells["0"].module.out_features == width
    assert model.source.settings == ({} if width == 3 else {"width": width})
    assert len(generate_inputs(model, 3, seed=5)) == 3


def test_weights_follow_from_the_seed(place):
    first, same, other = (parse_model(f"{place}:build", seed=n).weights() for n in (1, 1, 2))
    assert first == same != other


def test_workers_build_it_again(place):
    model = dynpartition.load_model(f"{place}:build", {"width": 5}, seed=3)
    (item,) = generate_inputs(model, 1, seed=1)
    devices = dynpartition.parse_devices("cpu:0,cpu:1")
    with HardwareBackend(model, devices) as backend, backend.open(item) as session:
        tasks = range(len(session.graph))
        session.advance([dynpartition.Launch("cpu:1", (task,)) for task in tasks])
        assert agrees(session.answer(), model.eager(item.sample))


def test_a_model_captured_in_a_running_program_needs_no_processes(place):
    net = torch.nn.Sequential(torch.nn.Linear(4, 4)).eval()
    model = dynpartition.capture(net, cells=["0"])
    devices = dynpartition.parse_devices("cpu:0,cpu:1")
    with pytest.raises(DeviceError, match="captured in a running program; build it in a file"):
        HardwareBackend(model, devices)
    HardwareBackend(model, devices, workers="threads").close()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("no_such_module:build", ModelError, "there is no module 'no_such_module'"),
        ("no_such.py:build", ModelError, "there is no file"),
        ("their_model:bild", ModelError, "did you mean 'build'"),
        ("their_model:build:depth=3", ModelError, "cannot be called with depth"),
        ("their_model:build:width", UsageError, "write settings as name=number"),
        ("their_model:module", ModelError, "returns Linear, a module without cells"),
        ("their_model:number", ModelError, "returns int, no model"),
    ],
)
def test_what_cannot_be_loaded_is_said(place, text, error, message):
    with pytest.raises(error, match=message):
        parse_model(text, seed=0)
