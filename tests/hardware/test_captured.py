"""Random programs of cells, glue and branches: captured they give what they give eagerly."""

import random
import sys
from pathlib import Path

import pytest
import torch

import dynpartition
from dynpartition import Device, parse_devices
from dynpartition.hardware import FakeStreams, HardwareBackend
from dynpartition.models import (
    ModelInput,
    build_model,
    check_model,
    generate_inputs,
    merge_inputs,
    run_eagerly,
)
from dynpartition.models.check import agrees
from dynpartition.serving.loop import Loop

OUTSIDERS = Path(__file__).parent.parent / "outsiders"
sys.path.append(str(OUTSIDERS))

from random_models import random_model  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.* cores are available")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return random_model()


def test_tasks_one_by_one_give_the_eager_answer(model):
    for sample in model.samples(150, seed=11):
        assert agrees(run_eagerly(ModelInput(model, sample)), model.eager(sample))


def test_the_contract_of_models_is_kept(model):
    check_model(model, model.samples(40, seed=12))


@pytest.mark.parametrize("in_flight", [1, 5, 40])
def test_requests_in_flight_give_the_eager_answers(model, in_flight):
    samples = model.samples(80, seed=13)
    answers = dict(Loop(model.cells).run(map(model.start, samples), in_flight))
    assert sorted(answers) == list(range(80))
    for number, sample in enumerate(samples):
        assert agrees(answers[number], model.eager(sample))


def test_a_graph_is_the_same_every_time_and_hides_what_is_decided_later(model):
    inputs = [ModelInput(model, sample) for sample in model.samples(40, seed=14)]
    again = [ModelInput(model, one.sample) for one in inputs]
    assert [one.graph.digest for one in inputs] == [one.graph.digest for one in again]
    assert sum(len(one.graph.revealers) for one in inputs) > 40


def test_any_plan_merging_and_eviction_gives_the_eager_answer(
    model, random_scheduler, drive_within_memory
):
    inputs = [ModelInput(model, sample) for sample in model.samples(30, seed=15)]
    dice, loads = random.Random(16), 0
    sizes = [cell.param_bytes for cell in model.graph_cells]
    for _ in range(6):
        cap = dice.randint(max(sizes), sum(sizes)) + 200_000
        devices = [Device("cpu:0", "cpu"), Device("cpu:1", "cpu", cap), Device("cuda:0", "cuda")]
        options = {"streams": FakeStreams(seed=dice.randrange(10**6)), "workers": "threads"}
        with HardwareBackend(model, devices, arena_bytes=1 << 22, **options) as backend:
            for _ in range(8):
                chosen = dice.sample(inputs, dice.choice([1, 1, 3, 6]))
                workload = merge_inputs(chosen) if len(chosen) > 1 else chosen[0]
                with backend.open(workload) as session:
                    drive_within_memory(
                        session, random_scheduler(dice.randrange(10**6)), backend.profile
                    )
                    answers = session.answers()
                for one, answer in zip(chosen, answers, strict=True):
                    assert agrees(answer, model.eager(one.sample))
                loads += len(session.trace.loads)


@pytest.fixture(scope="module", params=["early_exit", "parser", "router"])
def outsider(request):
    """A model of a file that knows nothing of cells, and of one that names them."""
    return dynpartition.load_model(f"{OUTSIDERS / 'builds.py'}:{request.param}", seed=3)


def test_models_of_others_keep_the_contract(outsider):
    check_model(outsider, outsider.samples(8, seed=1))


def test_models_of_others_run_in_worker_processes_under_any_plan(
    outsider, random_scheduler, drive_within_memory
):
    inputs = [ModelInput(outsider, sample) for sample in outsider.samples(8, seed=2)]
    expected = [outsider.eager(one.sample) for one in inputs]
    dice = random.Random(17)
    with HardwareBackend(outsider, parse_devices("cpu:0,cpu:1@90KB")) as backend:
        for _ in range(8):
            chosen = dice.sample(range(8), dice.choice([1, 2, 5]))
            together = [inputs[n] for n in chosen]
            workload = merge_inputs(together) if len(together) > 1 else together[0]
            with backend.open(workload) as session:
                drive_within_memory(
                    session, random_scheduler(dice.randrange(10**6)), backend.profile
                )
                answers = session.answers()
            for number, answer in zip(chosen, answers, strict=True):
                assert agrees(answer, expected[number])


def test_early_exit_ends_there():
    model = dynpartition.load_model(f"{OUTSIDERS / 'builds.py'}:early_exit", seed=3)
    ends = set()
    for sample in model.samples(40, seed=5):
        tasks = ModelInput(model, sample).graph.tasks()
        depth = model.eager(sample)["exit"]
        blocks = [task.cell for task in tasks if task.cell.startswith("blocks")]
        assert blocks == [f"blocks.{n}" for n in range(depth + 1)]
        ends.add(depth)
    assert len(ends) > 1


ZOO = {
    "earlyexit": {"width": 16, "blocks": 4},
    "layerskip": {"width": 16, "layers": 4},
    "refine": {"width": 12},
    "resnet50": {"width": 2, "image": 32, "images": 3, "classes": 4},
    "sequence": {"width": 8, "vocabulary": 30},
    "softmoe": {"width": 8, "tokens": 5, "experts": 3},
}


class Failing(FakeStreams):
    """Fails for good after `lives` calls."""

    def __init__(self, lives, **more):
        super().__init__(**more)
        self.lives = lives

    def enqueue(self, stream, work):
        self.lives -= 1
        if self.lives < 0:
            raise RuntimeError("CUDA error: unspecified launch failure")
        super().enqueue(stream, work)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("name", ZOO)
def test_any_plan_merging_eviction_and_fault_gives_the_eager_answer(
    name, bits, random_scheduler, drive_within_memory
):
    model = build_model(name, {**ZOO[name], "float_bits": bits}, seed=bits)
    inputs = [(one, model.eager(one.sample)) for one in generate_inputs(model, 8, seed=7)]
    dice, lost = random.Random(f"{name} {bits}"), 0
    sizes = [cell.param_bytes for cell in model.graph_cells]
    for number in range(4):
        cap = dice.randint(max(sizes), sum(sizes)) + 300_000
        devices = [Device("cpu:0", "cpu"), Device("cpu:1", "cpu", cap), Device("cuda:0", "cuda")]
        streams = Failing(10**6 if number % 2 else 3**number, seed=number)
        options = {"streams": streams, "workers": "threads", "arena_bytes": 1 << 22}
        with HardwareBackend(model, devices, **options) as backend:
            for _ in range(3):
                chosen = dice.sample(inputs, dice.choice([1, 1, 3]))
                together = [one for one, _ in chosen]
                workload = merge_inputs(together) if len(together) > 1 else together[0]
                with backend.open(workload) as session:
                    drive_within_memory(
                        session, random_scheduler(dice.randrange(10**6)), backend.profile
                    )
                    lost += bool(session.lost)
                    answers = session.answers()
                for (_, expected), answer in zip(chosen, answers, strict=True):
                    assert agrees(answer, expected)
    assert lost
