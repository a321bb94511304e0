"""The caller against workers that a seed makes late, deaf, forgetful and mortal.

Every case is replayed by its seed: `play(seed, …)` gives the same faults again.
"""

import math
import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynpartition import Launch, drive, parse_devices
from dynpartition.hardware import FakeStreams, HardwareBackend
from dynpartition.models import ModelInput, merge_inputs, run_eagerly
from tests.hardware.virtual_workers import MS, Rates, World

pytestmark = pytest.mark.filterwarnings("ignore:.*cores are available:RuntimeWarning")

DEVICES = [
    "cpu:0,cpu:1",
    "cpu:0,cpu:1,cpu:2",
    "cpu:1,cpu:0x0.5,cpu:2,cpu:3",
    "cuda:0,cpu:0,cpu:1,cuda:1,cpu:2",
]

seeds = st.integers(0, 2**32)
many = settings(
    max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)


def any_rates(dice):
    """Return mostly harmless worlds, some of which are terrible in one way or another."""
    often = lambda rate: dice.choice([0, 0, rate / 4, rate])  # noqa: E731
    return Rates(
        *(often(0.3), often(0.3), often(0.05), often(0.03)),
        *(often(0.03), often(0.02), often(0.5)),
    )


def virtual_backend(world, model, devices, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dynpartition.hardware.machine.start_pool", world.start_pool)
        named = parse_devices(devices) if isinstance(devices, str) else devices
        return HardwareBackend(model, named, arena_bytes=1 << 21, **options)


def play(seed, model, workloads, random_scheduler):
    """Run some inputs in a world of faults; return what happened in it."""
    dice = random.Random(seed)
    world, streams = World(seed, any_rates(dice)), FakeStreams(seed=seed)
    options = {"stall_timeout_s": 0.5, "streams": streams}
    with virtual_backend(world, model, dice.choice(DEVICES), **options) as backend:
        favourite = dice.choice(workloads)  # the same plan again: devices have kept it
        for number in range(4):
            workload = dice.choice([favourite, dice.choice(workloads)])
            if not isinstance(workload.sample, list) and dice.random() < 0.3:
                workload = merge_inputs([workload, dice.choice(workloads)])
            with backend.open(workload) as session:
                scheduler = random_scheduler(seed + number // 3)
                outcome = drive(session, scheduler, backend.profile)
                check(session, outcome, workload)
            world.log.append((world.now, len(outcome.plan), tuple(session.lost)))
    return world.log


def check(session, outcome, workload):
    """Check the answer, and what the session says of a run with losses."""
    parts = getattr(workload, "inputs", [workload])
    for part, answer in zip(parts, session.answers(), strict=True):
        assert torch.allclose(answer, run_eagerly(part), rtol=1e-4, atol=1e-5)
    graph, trace = outcome.graph, outcome.trace
    assert sorted(outcome.plan.placement()) == list(range(len(graph)))
    ran = [task for span in trace.launches for task in span.tasks]
    assert len(ran) == len(set(ran))
    unmeasured = set(range(len(graph))).difference(ran)
    where = outcome.plan.placement()
    assert all(where[task] in session.lost for task in unmeasured)
    assert all(span.device in session.lost for span in trace.wasted)
    assert sorted(reveal.task for reveal in trace.reveals) == list(graph.revealers)
    assert trace.makespan_ns >= max([0, *(span.end_ns for span in trace.launches)])


def toy_inputs(toy):
    """Inputs of 1 to 30 tasks that take no time."""
    inputs = []
    for seed in range(8):
        dice = random.Random(seed)
        tasks = [
            ((1, 0), tuple(dice.sample(range(n), min(n, dice.randint(0, 3)))))
            for n in range(dice.randint(1, 30))
        ]
        inputs.append(ModelInput(toy, tasks))
    return inputs


@pytest.mark.parametrize("name", ["toy", "treelstm", "moe"])
def test_no_fault_changes_an_answer(toy, models, inputs, random_scheduler, name):
    model, workloads = (toy, toy_inputs(toy)) if name == "toy" else (models[name], inputs[name])

    @many
    @given(seeds)
    def play_any(seed):
        play(seed, model, workloads, random_scheduler)

    play_any()


@pytest.mark.parametrize("other", ["cpu:2", "cuda:0"])
def test_capped_devices_keep_what_survives(
    models, inputs, random_scheduler, drive_within_memory, other
):
    """Weights come and go on two devices; a loss leaves outputs and weights where they are."""
    model = models["moe"]
    weights = sum(cell.param_bytes for cell in model.graph_cells)
    devices = f"cpu:0,cpu:1@{weights // 2 + 30_000}B,{other}@{weights // 2 + 60_000}B"
    losses = []

    @settings(many, max_examples=60)
    @given(seeds)
    def play_any(seed):
        dice = random.Random(seed)
        world = World(seed, any_rates(dice))
        options = {"stall_timeout_s": 0.5, "streams": FakeStreams(seed=seed)}
        with virtual_backend(world, model, devices, **options) as backend:
            for number in range(3):
                workload = dice.choice(inputs["moe"])
                scheduler = random_scheduler(seed + number)
                with backend.open(workload) as session:
                    drive_within_memory(session, scheduler, backend.profile)
                    losses.append(len(session.lost))
                    answer = session.answer()
                assert torch.allclose(answer, run_eagerly(workload), rtol=1e-4, atol=1e-5)

    play_any()
    assert sum(losses) > 20


@settings(many, max_examples=10)
@given(seed=seeds)
def test_a_seed_replays_its_case(toy, random_scheduler, seed):
    first = play(seed, toy, toy_inputs(toy), random_scheduler)
    assert play(seed, toy, toy_inputs(toy), random_scheduler) == first


def test_the_worlds_have_every_fault(toy, random_scheduler):
    logs = [play(seed, toy, toy_inputs(toy), random_scheduler) for seed in range(40)]
    faults = {entry[1] for log in logs for entry in log}
    assert faults >= {"crash", "stop", "never", "no memory", "no start"}


def test_without_faults_nothing_is_lost(toy, random_scheduler):
    for seed in range(10):
        world = World(seed, Rates())
        with (
            virtual_backend(world, toy, DEVICES[1], stall_timeout_s=0.5) as backend,
            backend.open(toy_inputs(toy)[seed % 8]) as session,
        ):
            drive(session, random_scheduler(seed), backend.profile)
            assert not session.lost
            assert session.profile_now is None


def test_late_and_repeated_messages_lose_nobody(toy, random_scheduler):
    for seed in range(20):
        world = World(seed, Rates(late=0.5, twice=0.5))
        with virtual_backend(world, toy, DEVICES[1], stall_timeout_s=5) as backend:
            for number in range(3):
                with backend.open(toy_inputs(toy)[(seed + number) % 8]) as session:
                    drive(session, random_scheduler(seed), backend.profile)
                    assert not session.lost


def test_a_caller_that_was_stopped_itself_gives_nobody_up(toy, random_scheduler):
    """As by Ctrl-Z in a terminal: hours pass, but nobody has looked meanwhile."""
    world = World(1, Rates())
    with virtual_backend(world, toy, DEVICES[1], stall_timeout_s=1) as backend:
        plain, dice = world.pass_time, random.Random(2)

        def pass_time():
            plain()
            world.now += 3_600_000 * MS if dice.random() < 0.1 else 0

        world.pass_time = pass_time
        for number in range(8):
            with backend.open(toy_inputs(toy)[number]) as session:
                drive(session, random_scheduler(number), backend.profile)
                assert not session.lost
        assert world.now > 3_600_000 * MS


def test_a_worker_that_stands_still_is_given_up_in_time(toy, random_scheduler):
    """cpu:1 never makes a step: it is missed 2 s after its first orders, and no other is."""
    world = World(0, Rates())
    with virtual_backend(world, toy, DEVICES[1], stall_timeout_s=2) as backend:
        world.workers[0].back_at = math.inf
        begin = world.now
        workload = ModelInput(toy, [((1, 0), ()), ((1, 0), (0,))])
        with backend.open(workload) as session:
            assert session.advance([Launch("cpu:1", (0,)), Launch("cpu:2", (1,))])
            assert list(session.lost) == ["cpu:1"]
            assert 2_000 * MS < world.now - begin < 2_500 * MS
            assert not session.advance([Launch("cpu:2", (0,)), Launch("cpu:2", (1,))])
            assert torch.equal(session.answer(), toy.eager(workload.sample))
