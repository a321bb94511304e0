"""Models as functions: one request and many, on one device and on several."""

import random
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import dynpartition
from dynpartition.agent.registry import make_scheduler
from dynpartition.errors import DeviceError, InputError, ModelError, ProfileError, SchedulerError
from dynpartition.models import build_model
from dynpartition.models.check import agrees
from dynpartition.serving.loop import Loop

OUTSIDERS = Path(__file__).parent.parent / "outsiders"
SMALL = {
    "treelstm": {"input_dim": 12, "hidden_dim": 8},
    "mathfunc": {"width": 16},
    "moe": {"width": 16, "heads": 2, "experts": 3, "chunk_tokens": 4},
    "earlyexit": {"width": 16, "blocks": 4},
    "layerskip": {"width": 16, "layers": 4},
    "refine": {"width": 12},
    "sequence": {"width": 8, "vocabulary": 30},
    "softmoe": {"width": 8, "tokens": 5, "experts": 3},
}

pytestmark = pytest.mark.filterwarnings("ignore:.* cores are available")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", SMALL)
def test_every_model_gives_its_eager_answers_in_their_order(name):
    model = build_model(name, SMALL[name], seed=1)
    samples = model.samples(25, seed=2)
    with dynpartition.Runtime() as runtime:
        for in_flight in (1, 7, 100):
            answers = runtime.map(model, iter(samples), in_flight=in_flight)
            assert len(answers) == 25
            assert all(map(agrees, answers, map(model.eager, samples)))
        assert agrees(runtime(model, samples[3]), model.eager(samples[3]))


class Counting(nn.Module):
    """Counts its calls and tasks outside of what capture can see."""

    calls: list[int] = []  # noqa: RUF012

    def forward(self, x):
        Counting.calls.append(len(x))
        return x * 0.5 + 1


class Loops(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = Counting()

    def forward(self, x):
        while x.max() > 3:
            x = self.cell(x)
        return x


def test_requests_merge_across_values_that_decide_what_runs():
    model = dynpartition.capture(Loops().eval(), cells=["cell"])
    samples = [torch.full((1, 2), 100.0 + n) for n in range(32)]
    with dynpartition.Runtime() as runtime:
        runtime.map(model, samples, in_flight=16)
        Counting.calls.clear()
        answers = runtime.map(model, samples, in_flight=16)
    steps = len(Counting.calls)
    assert all(map(agrees, answers, map(model.eager, samples)))
    n_tasks = len(Counting.calls) - steps  # eagerly, one by one
    assert n_tasks > 10 * steps


def test_one_that_ends_makes_room_for_the_next():
    model = dynpartition.capture(Loops().eval(), cells=["cell"])
    started = []

    def samples():
        for number in range(9):
            started.append(number)
            yield torch.full((1, 2), 1e6 if number == 0 else 10.0)

    runs = (model.start(sample) for sample in samples())
    ended = [(number, len(started)) for number, _ in Loop(model.cells).run(runs, 3)]
    assert [number for number, _ in ended][-1] == 0  # the long one ends last
    assert max(n - at for at, (_, n) in enumerate(ended)) <= 3


@pytest.mark.parametrize("policy", ["heft+merge", make_scheduler("random", seed=3)])
def test_several_devices(policy):
    model = dynpartition.load_model(f"{OUTSIDERS / 'builds.py'}:parser", seed=3)
    samples = model.samples(6, seed=4)
    with dynpartition.Runtime("cpu:0,cpu:1", policy) as runtime:
        answers = runtime.map(model, samples, in_flight=4)
        assert all(map(agrees, answers, map(model.eager, samples)))
        assert agrees(runtime(model, samples[0]), model.eager(samples[0]))


def test_a_model_captured_in_this_program_runs_on_several_devices_by_threads():
    model = dynpartition.capture(Loops().eval(), cells=["cell"])
    samples = [torch.full((1, 2), 4.0 + 7 * n) for n in range(6)]
    expected = [model.eager(sample) for sample in samples]
    with dynpartition.Runtime("cpu:0,cpu:1", "round-robin", workers="threads") as runtime:
        assert all(map(agrees, runtime.map(model, samples, in_flight=3), expected))
        with runtime.serve(model, in_flight=3) as service:
            assert all(map(agrees, map(service, samples), expected))
    with (
        dynpartition.Runtime("cpu:0,cpu:1") as runtime,
        pytest.raises(DeviceError, match=r'use threads .workers="threads".'),
    ):
        runtime.map(model, samples)


def test_what_cannot_run_is_said():
    runtime = dynpartition.Runtime()
    gpu = dynpartition.Runtime("cpu:0,cuda:0")
    with pytest.raises(ProfileError, match="nothing is known of cuda:0; measure it"):
        gpu(build_model("earlyexit", SMALL["earlyexit"]), torch.ones(1, 16))
    with pytest.raises(DeviceError, match="host1/cpu:0 is not there"):
        dynpartition.Runtime("host1/cpu:0")(
            build_model("sequence", SMALL["sequence"]), torch.tensor([3])
        )
    with pytest.raises(ModelError, match=r"Loops is not captured; call dynpartition\.capture"):
        runtime(Loops(), torch.ones(1, 2))
    model = dynpartition.capture(Loops().eval(), cells=["cell"])
    with pytest.raises(InputError, match="in_flight is 0"):
        runtime.map(model, [], in_flight=0)
    assert runtime.map(model, []) == []
    with pytest.raises(SchedulerError, match="no scheduler is named"):
        dynpartition.Runtime("cpu:0,cpu:1", "heft+marge")


def test_an_error_of_one_request_leaves_the_runtime_usable():
    model = dynpartition.capture(Loops().eval(), cells=["cell"])
    with dynpartition.Runtime() as runtime:
        with pytest.raises(AttributeError):
            runtime.map(model, [torch.full((1, 2), 50.0), "no tensor"])
        assert agrees(
            runtime(model, torch.full((1, 2), 50.0)), model.eager(torch.full((1, 2), 50.0))
        )


def test_large_numbers_of_requests_in_any_mix():
    sys.path.append(str(OUTSIDERS))
    from random_models import random_model

    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = random_model()
    samples = model.samples(60, seed=21)
    random.Random(1).shuffle(samples)
    with dynpartition.Runtime() as runtime:
        assert all(map(agrees, runtime.map(model, samples), map(model.eager, samples)))


class Counts(nn.Module):
    """As many calls as the sample has columns beyond the first."""

    def __init__(self):
        super().__init__()
        self.cell = Counting()

    def forward(self, x):
        for _ in range(x.shape[1] - 1):
            x = self.cell(x)
        return x


def stream_of(model, odd, n_usual, in_flight):
    """Play one odd sample among many usual ones; return how many of these ended before it."""
    samples = [odd, *(torch.ones(1, 2) for _ in range(n_usual))]
    loop = Loop(model.cells)
    ended = [n for n, _ in loop.run((model.start(sample) for sample in samples), in_flight)]
    assert sorted(ended) == list(range(n_usual + 1))
    return ended.index(0), loop


def test_a_request_unlike_all_others_is_not_overtaken_for_good():
    """Batches of the others are larger and always ready; its own tasks can join none of them."""
    model = dynpartition.capture(Counts().eval(), cells=["cell"])
    n_before, _ = stream_of(model, torch.ones(1, 4), 400, in_flight=8)
    assert n_before < 100
    # A long one does not stop the others either: they have every other launch.
    n_before, _ = stream_of(model, torch.ones(1, 21), 400, in_flight=8)
    assert 60 < n_before < 300


def test_what_a_loop_remembers_of_shapes_is_bounded(monkeypatch):
    monkeypatch.setattr("dynpartition.serving.loop.KINDS_MAX", 20)
    model = dynpartition.capture(Counts().eval(), cells=["cell"])
    samples = [torch.full((1, 2 + n % 50), float(n)) for n in range(150)]
    loop = Loop(model.cells)
    answers = dict(loop.run((model.start(sample) for sample in samples), 8))
    assert all(agrees(answers[n], model.eager(sample)) for n, sample in enumerate(samples))
    assert len(loop._number) <= 20
    assert len(loop._groups) <= 20
