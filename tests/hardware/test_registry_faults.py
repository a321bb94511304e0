"""Every model's answer is the eager one, whatever happens to the devices that compute it."""

import random
import signal

import pytest
import torch
from hypothesis import given, settings

import dynpartition
from dynpartition import Device, Launch, drive, parse_devices
from dynpartition.contract import Scheduler
from dynpartition.errors import DeviceLost
from dynpartition.hardware import HardwareBackend
from dynpartition.models import ModelInput, build_model, generate_inputs, merge_inputs
from dynpartition.models.check import agrees
from dynpartition.models.registry import MODELS
from tests.hardware.conftest import SIZES, usable
from tests.hardware.test_captured import OUTSIDERS, ZOO, Failing
from tests.hardware.test_faults import is_alive, workers
from tests.hardware.test_recovery_virtual import any_rates, many, seeds, virtual_backend
from tests.hardware.virtual_workers import World

pytestmark = pytest.mark.filterwarnings("ignore:.*cores are available:RuntimeWarning")

SMALL = {**SIZES, **ZOO}
"""Sizes of the shipped models, small enough for many runs; a model without any takes its own."""
FILES = {name: f"{OUTSIDERS / 'builds.py'}:{name}" for name in ("early_exit", "parser", "router")}
"""Models that a user's file builds."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(name):
    """Return a model of the registry or of a file, and inputs of it with their eager answers."""
    if name in FILES:
        model = dynpartition.load_model(FILES[name], seed=3)
    else:
        model = build_model(name, SMALL.get(name), seed=1)
    return model, [(one, model.eager(one.sample)) for one in generate_inputs(model, 6, seed=2)]


def machine(dice, model):
    """Return devices, of which some hold only a part of the weights at a time."""
    sizes = [cell.param_bytes for cell in model.graph_cells]
    devices = [Device("cpu:0", "cpu")]
    for name in dice.choice([["cpu:1"], ["cpu:1", "cpu:2"], ["cpu:1", "cuda:0"]]):
        cap = dice.randint(max(sizes), sum(sizes)) + 300_000
        devices.append(Device(name, name[:-2], dice.choice([None, cap])))
    return dice.sample(devices, len(devices))


def some_of(dice, inputs):
    """Return a workload of one or several inputs, and the answers to expect."""
    chosen = dice.sample(inputs, dice.choice([1, 1, 3]))
    together = [one for one, _ in chosen]
    workload = merge_inputs(together) if len(together) > 1 else together[0]
    return workload, [expected for _, expected in chosen]


@pytest.mark.parametrize("name", [*MODELS, *FILES])
def test_no_plan_merging_eviction_or_fault_changes_an_answer(
    name, random_scheduler, drive_within_memory
):
    """Workers crash, stand still, starve and lose messages, and GPUs fail, as a seed decides."""
    model, inputs = build(name)
    lost = []

    @settings(many, max_examples=8)
    @given(seeds)
    def play(seed):
        dice = random.Random(seed)
        world, lives = World(seed, any_rates(dice)), dice.choice([10**6, dice.randint(1, 300)])
        options = {"stall_timeout_s": 0.5, "streams": Failing(lives, seed=seed)}
        with virtual_backend(world, model, machine(dice, model), **options) as backend:
            for _ in range(3):
                workload, expected = some_of(dice, inputs)
                scheduler = random_scheduler(dice.randrange(10**6))
                with backend.open(workload) as session:
                    drive_within_memory(session, scheduler, backend.profile)
                    lost.extend(session.lost)
                    answers = session.answers()
                assert all(map(agrees, answers, expected))

    play()
    assert lost


def test_a_lost_worker_process_of_a_model_from_a_file_is_made_good():
    model, inputs = build("parser")
    workload, expected = some_of(random.Random(1), inputs)
    with HardwareBackend(model, parse_devices("cpu:0,cpu:1")) as backend:
        (process,) = workers(backend)
        with backend.open(workload) as session:
            process.send_signal(signal.SIGKILL)
            drive(session, AllOn("cpu:1"), backend.profile)
            assert list(session.lost) == ["cpu:1"]
            assert all(map(agrees, session.answers(), expected))
    assert not is_alive(process.pid)


class AllOn(Scheduler):
    """All on one device, or on the host when that is lost."""

    name = "all-on"

    def __init__(self, device):
        self.device = device

    def schedule(self, graph, profile, planned):
        device = self.device if self.device in usable(profile) else profile.cluster.host
        done = planned.placement()
        return [Launch(device, (t,)) for t in graph.topological_order if t not in done]


class Doubtful(torch.nn.Module):
    """Raises where eager code raises too: on what it does not like."""

    def __init__(self):
        super().__init__()
        self.step = torch.nn.Linear(4, 4)

    def forward(self, x):
        while x.sum() < 100:
            x = self.step(x).abs() + 1 + x
        return self.judge(x)

    def judge(self, x):
        if x.max() > 1000:
            raise ValueError("too much of it")
        return x


def test_what_a_model_raises_comes_through_and_leaves_the_backend_usable(random_scheduler):
    model = dynpartition.capture(Doubtful().eval(), cells=["step"])
    bad, good = torch.tensor([[6000.0, -6000.0, 0.0, 0.0]]), torch.full((1, 4), 20.0)
    with HardwareBackend(model, parse_devices("cpu:0,cpu:1"), workers="threads") as backend:
        for _ in range(2):
            with (
                pytest.raises(ValueError, match="too much of it"),
                backend.open(ModelInput(model, bad)) as session,
            ):
                drive(session, random_scheduler(1), backend.profile)
            with backend.open(ModelInput(model, good)) as session:
                drive(session, random_scheduler(2), backend.profile)
                assert agrees(session.answer(), model.eager(good))


class Outer(torch.nn.Module):
    """Has a cell that raises on large numbers only, which no learning of shapes meets."""

    def __init__(self):
        super().__init__()
        self.doubtful = Judge()

    def forward(self, x):
        return self.doubtful(x) + 1


class Judge(torch.nn.Module):
    def forward(self, x):
        if x.max() > 50:
            raise ValueError("too much of it")
        return x * 2


def test_a_cell_that_raises_ends_the_run_with_its_words(random_scheduler):
    model = dynpartition.capture(Outer().eval(), cells=["doubtful"])
    with HardwareBackend(model, parse_devices("cpu:0,cpu:1"), workers="threads") as backend:
        session = backend.open(ModelInput(model, torch.full((1, 4), 60.0)))
        with pytest.raises(DeviceLost, match=r"doubtful.*too much of it"):
            drive(session, random_scheduler(3), backend.profile)
