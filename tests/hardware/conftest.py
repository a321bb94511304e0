import contextlib
import random
import sys
from pathlib import Path

import pytest
import torch

from dynpartition import Launch, parse_devices
from dynpartition.contract import Scheduler
from dynpartition.errors import OutOfDeviceMemory
from dynpartition.hardware import FakeStreams, HardwareBackend
from dynpartition.models import build_model, generate_inputs

sys.path.append(str(Path(__file__).parent / "toys"))

SIZES = {"treelstm": {"input_dim": 24, "hidden_dim": 12}, "mathfunc": {}, "moe": {"width": 32}}


def usable(profile):
    """Return the devices that have not been lost."""
    cluster = profile.cluster
    linked = {link.src for link in cluster.links}
    return [name for name in cluster.names if name in linked or name == cluster.host]


class RandomScheduler(Scheduler):
    """Any legal plan: a random order, random devices, and random merging of like tasks."""

    name = "random"

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.barred = frozenset()
        """Devices that run nothing, though links reach them."""
        self.sizes = []
        """Tasks revealed at each call."""

    def schedule(self, graph, profile, planned):
        self.sizes.append(len(graph))
        done = {task for launch in planned.launches for task in launch.tasks}
        launches = []
        while len(done) < len(graph):
            ready = [
                t for t in range(len(graph)) if t not in done and self._is_ready(graph, t, done)
            ]
            first = self.random.choice(ready)
            alike = [t for t in ready if graph.cell_of[t] == graph.cell_of[first] and t != first]
            more = self.random.sample(alike, self.random.randint(0, len(alike)))
            able = [name for name in usable(profile) if name not in self.barred]
            device = self.random.choice(able)
            launches.append(Launch(device, (first, *more)))
            done.update((first, *more))
        return launches

    def _is_ready(self, graph, task, done):
        revealer = int(graph.revealed_by[task])
        return all(i in done for i in graph.input_lists[task]) and (
            revealer < 0 or revealer in done
        )


def _drive_within_memory(session, scheduler, profile):
    """Run a session to its end, with all on the host where a plan does not fit elsewhere."""
    more = True
    while more:
        machine, scheduler.barred = session.profile_now or profile, frozenset(session.lost)
        launches = scheduler.schedule(session.graph, machine, session.plan)
        try:
            more = session.advance(launches)
        except OutOfDeviceMemory:
            host = profile.cluster.host
            more = session.advance([Launch(host, launch.tasks) for launch in launches])


@pytest.fixture(scope="session")
def drive_within_memory():
    return _drive_within_memory


@pytest.fixture
def two_threads():
    """PyTorch's threads as they are outside of tests: not one, as backends set them for a run."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def models():
    return {name: build_model(name, sizes, seed=1) for name, sizes in SIZES.items()}


@pytest.fixture(scope="session")
def inputs(models):
    return {name: generate_inputs(model, 6, seed=2) for name, model in models.items()}


@pytest.fixture(scope="session")
def toy():
    import toy_models

    return toy_models.Toy(toy_models.ModelConfig())


@pytest.fixture(scope="session")
def random_scheduler():
    return RandomScheduler


@pytest.fixture(scope="session")
def backends(models):
    """Backends by (model, devices): starting workers takes seconds."""
    made = {}
    with contextlib.ExitStack() as stack:

        def get(name, devices):
            key = (name, devices)
            if key not in made:
                streams = FakeStreams(seed=7) if "cuda" in devices else None
                backend = HardwareBackend(models[name], parse_devices(devices), streams=streams)
                made[key] = stack.enter_context(backend)
            return made[key]

        yield get


@pytest.fixture
def toy_backend(toy):
    """A backend of its own: the test may break it."""
    with HardwareBackend(toy, parse_devices("cpu:0,cpu:1")) as backend:
        yield backend


@pytest.fixture(scope="module")
def toy_revealing():
    """A backend for a model whose task 0 reveals task 4, and an input of 300 ms per task."""
    import toy_models

    from dynpartition.models import ModelInput

    model = toy_models.RevealingToy(toy_models.ModelConfig())
    with HardwareBackend(model, parse_devices("cpu:0,cpu:1")) as backend:
        yield backend, ModelInput(model, 300)
