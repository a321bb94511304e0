"""CPUs and GPUs of several hosts as devices of one plan: all hosts are threads of this process.

rank 0: cpu:0 (the caller), cpu:1, cuda:0      rank 1: cpu:0, cpu:1, cuda:0, cuda:1
"""

import random
import time

import pytest
import torch

from dynpartition import Launch, drive, parse_devices
from dynpartition.contract import Scheduler
from dynpartition.errors import DeviceError, PlanError
from dynpartition.hardware import FakeStreams, HardwareBackend
from dynpartition.hardware.devices import uncalibrated_profile
from dynpartition.models import merge_inputs, run_eagerly
from tests.hardware.hosts_in_threads import Interrupted, check, several_hosts

ALL = "cpu:0,cpu:1,cuda:0,host1/cpu:0,host1/cpu:1,host1/cuda:0,host1/cuda:1"
FAR = [name for name in ALL.split(",") if name.startswith("host1")]
ARENA_BYTES = 1 << 20


def open_backend(model, devices=ALL, seed=5, **more):
    streams = FakeStreams(seed=seed)
    devices = parse_devices(devices)
    return HardwareBackend(model, devices, streams=streams, arena_bytes=ARENA_BYTES, **more)


@pytest.mark.parametrize("name", ["treelstm", "moe"])
def test_any_plan_gives_the_eager_answer(name, models, inputs, random_scheduler, monkeypatch):
    used, links = set(), set()
    with several_hosts(monkeypatch, seed=3) as hosts, open_backend(models[name]) as backend:
        for seed in range(8):
            few = inputs[name][: 1 + 2 * (seed % 2)]
            workload = few[0] if name == "moe" or len(few) == 1 else merge_inputs(few)
            outcome, _ = check(backend, workload, random_scheduler(seed))
            used |= {launch.device for launch in outcome.plan.launches}
            links |= {(span.src, span.dst) for span in outcome.trace.transfers}
    assert used == set(ALL.split(","))
    assert len(links) > 30
    assert sorted(hosts.started) == sorted([*FAR, "cpu:1"])


def test_what_a_launch_costs_the_host_of_a_gpu_is_measured(models, inputs, monkeypatch):
    class Alternating(Scheduler):
        name = "alternating"

        def schedule(self, graph, profile, planned):
            names = "host1/cuda:0", "host1/cpu:0"
            return [Launch(names[task % 2], (task,)) for task in range(len(graph))]

    model, item = models["treelstm"], inputs["treelstm"][0]
    with (
        several_hosts(monkeypatch),
        open_backend(model, "cpu:0,host1/cpu:0,host1/cuda:0") as backend,
        backend.open(item) as session,
    ):
        launches = drive(session, Alternating(), backend.profile).trace.launches
        for launch, dispatch_ns in zip(launches, session.dispatch_ns, strict=True):
            assert (dispatch_ns > 0) == (launch.device == "host1/cuda:0")


@pytest.mark.parametrize("seed", range(6))
def test_a_run_outlives_any_of_them(seed, models, inputs, random_scheduler, monkeypatch):
    """Also the loss of several; the next session has them all again, with nothing left over."""
    dice, items = random.Random(seed), inputs["moe"]
    names = ALL.split(",")
    order = ",".join([names[0], *dice.sample(names[1:], len(names) - 1)])
    with (
        several_hosts(monkeypatch, seed=seed) as hosts,
        open_backend(models["moe"], order) as backend,
    ):
        check(backend, items[0], random_scheduler(seed))
        victims = dice.sample(FAR, dice.choice([1, 1, 2, 3]))
        when = dice.randint(1, 3)

        def strike():
            for name in victims:
                hosts.kill(name)

        scheduler = Interrupted(random_scheduler(seed + 100), when, strike)
        _, lost = check(backend, items[1], scheduler)
        assert set(lost) <= set(victims)
        for again in range(2):
            _, lost = check(backend, items[2], random_scheduler(seed + again))
            assert not lost
        assert all(hosts.started.count(name) == 2 for name in victims)


def test_a_run_outlives_a_whole_rank(models, inputs, random_scheduler, monkeypatch):
    with several_hosts(monkeypatch) as hosts, open_backend(models["moe"]) as backend:
        end = Interrupted(random_scheduler(1), 2, lambda: hosts.end_rank(1))
        _, lost = check(backend, inputs["moe"][0], end)
        assert set(lost) <= set(FAR)
        assert lost and all("the connection to its host is gone" in why for why in lost.values())


def test_a_host_finds_out_that_rank_0_is_gone_without_a_word(
    models, inputs, random_scheduler, monkeypatch
):
    """As when the reset is lost that its system sends: whoever is asked nothing, asks."""
    monkeypatch.setattr("dynpartition.hardware.host_server.HERE_EVERY_NS", 10_000_000)
    with (
        several_hosts(monkeypatch) as hosts,
        open_backend(models["moe"], "cpu:0,host1/cpu:0") as backend,
    ):
        check(backend, inputs["moe"][0], random_scheduler(1))
        hosts.far_ends["host1/cpu:0"].is_cut = True
        deadline_s = time.monotonic() + 10
        while not hosts.workers["host1/cpu:0"].has_ended:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        check(backend, inputs["moe"][1], random_scheduler(2))


class Unseen(FakeStreams):
    """Of its events nothing is seen before a loss; `strike` is called when somebody looks."""

    def __init__(self, strike):
        super().__init__()
        self.strike, self.is_seen = strike, False

    def has_happened(self, event):
        if not self.is_seen:
            self.strike()
            return False
        return super().has_happened(event)

    def synchronize(self):
        self.is_seen = True
        super().synchronize()


def test_what_left_a_gpu_before_a_loss_still_gets_to_other_hosts(models, inputs, monkeypatch):
    """Leaves on cuda:0, for host1/cpu:0, which passes them on to cpu:0 after the loss."""

    class Onward(Scheduler):
        name = "onward"

        def schedule(self, graph, profile, planned):
            done = {task for launch in planned.launches for task in launch.tasks}
            cells = [graph.cell_name(task) for task in range(len(graph))]
            inner = "cpu:0" if done else "host1/cpu:0"
            places = ["cuda:0" if cell == "leaf" else inner for cell in cells]
            return [Launch(places[t], (t,)) for t in range(len(graph)) if t not in done]

    with several_hosts(monkeypatch) as hosts:
        streams = Unseen(lambda: hosts.kill("host1/cpu:1"))
        devices = parse_devices("cpu:0,host1/cpu:0,host1/cpu:1,cuda:0")
        with HardwareBackend(models["treelstm"], devices, streams=streams) as backend:
            outcome, lost = check(backend, inputs["treelstm"][0], Onward())
    assert list(lost) == ["host1/cpu:1"]
    assert any(span.src == "host1/cpu:0" for span in outcome.trace.transfers)


class Failing(FakeStreams):
    """Fails for good after `lives` uses, as CUDA does; `when_struck` is told."""

    def __init__(self, lives, n_gpus, seed):
        super().__init__(n_gpus, seed=seed)
        self.lives = lives

    def enqueue(self, stream, work):
        self.lives -= 1
        if self.lives < 0:
            raise RuntimeError("CUDA error: unspecified launch failure\nmore words")
        super().enqueue(stream, work)


@pytest.mark.parametrize("lives", [0, 3, 9])
def test_a_run_outlives_what_cuda_raises_on_another_host(
    lives, models, inputs, random_scheduler, monkeypatch
):
    """The next session has the GPU again: in a new process it may still work."""
    made = []

    def streams(name):
        made.append(name)
        is_first = made.count(name) == 1 and name == "host1/cuda:1"
        return Failing(lives, 2, 7) if is_first else FakeStreams(2, seed=7)

    with (
        several_hosts(monkeypatch, make_streams=streams),
        open_backend(models["treelstm"], "cpu:0,host1/cpu:0,host1/cuda:0,host1/cuda:1") as backend,
    ):
        runs = [check(backend, i, random_scheduler(n)) for n, i in enumerate(inputs["treelstm"])]
        lost = [lost for _, lost in runs if lost]
        assert lost == [
            {"host1/cuda:1": "host1/cuda:1 was lost: CUDA error: unspecified launch failure"}
        ]
        assert made.count("host1/cuda:1") == 2
        assert any(each.device == "host1/cuda:1" for each in runs[-1][0].plan.launches)


def test_without_a_wait_the_answer_is_wrong(models, inputs, random_scheduler, monkeypatch):
    """The stand-in would show it if a GPU of another host forgot to wait."""

    def forgetful(name):
        return FakeStreams(2, seed=1, ignore_waits=True)

    with (
        several_hosts(monkeypatch, make_streams=forgetful),
        open_backend(models["treelstm"], "cpu:0,host1/cuda:0,host1/cuda:1") as backend,
        pytest.raises(AssertionError, match="not close"),
    ):
        for seed, item in enumerate(inputs["treelstm"]):
            check(backend, item, random_scheduler(seed))


def test_weights_come_and_go_on_another_host(
    models, inputs, monkeypatch, drive_within_memory, random_scheduler
):
    """Caps that do not hold all weights and outputs at once."""
    model, loads = models["moe"], []
    cap = f"{sum(cell.param_bytes for cell in model.graph_cells) // 2}B"
    devices = f"cpu:0,host1/cpu:0@{cap},host1/cuda:0@{cap}"
    with several_hosts(monkeypatch), open_backend(model, devices) as backend:
        for seed, item in enumerate(inputs["moe"]):
            with backend.open(item) as session:
                drive_within_memory(session, random_scheduler(seed), backend.profile)
                torch.testing.assert_close(
                    session.answer(), run_eagerly(item), rtol=1e-4, atol=1e-5
                )
                loads += session.trace.loads
    assert {span.device for span in loads} == {"host1/cpu:0", "host1/cuda:0"}


@pytest.mark.parametrize(
    ("n_gpus", "message"),
    [
        (0, "host1/cuda:7 is not there: PyTorch of rank 1 sees no CUDA device; use host1/cpu:0"),
        (2, "host1/cuda:7 is not there: PyTorch of rank 1 sees cuda:0 to cuda:1; use host1/cuda:1"),
    ],
)
def test_a_gpu_that_a_rank_does_not_have(n_gpus, message, models, monkeypatch):
    with several_hosts(monkeypatch, n_gpus=n_gpus), pytest.raises(DeviceError) as caught:
        open_backend(models["treelstm"], "cpu:0,host1/cpu:0,host1/cuda:7")
    assert str(caught.value) == message


def test_what_cuda_raises_at_the_start_is_said(models, monkeypatch):
    class Broken(FakeStreams):
        def arena(self, device, size_bytes):
            raise RuntimeError("CUDA error: out of memory\nmore words")

    with (
        several_hosts(monkeypatch, make_streams=lambda name: Broken()),
        pytest.raises(
            DeviceError, match=r"^host1/cuda:0 cannot be used: CUDA error: out of memory$"
        ),
    ):
        open_backend(models["treelstm"], "cpu:0,host1/cuda:0")


def test_outputs_do_not_go_from_one_other_host_to_another(models, inputs, monkeypatch):
    class Apart(Scheduler):
        name = "apart"

        def schedule(self, graph, profile, planned):
            names = "host1/cuda:0", "host2/cpu:0"
            return [Launch(names[task % 2], (task,)) for task in range(len(graph))]

    with (
        several_hosts(monkeypatch),
        open_backend(models["treelstm"], "cpu:0,host1/cuda:0,host2/cpu:0") as backend,
        pytest.raises(PlanError, match="host1/cuda:0 to host2/cpu:0"),
    ):
        check(backend, inputs["treelstm"][0], Apart())


def test_which_links_there_are_between_hosts():
    names = "cpu:0,cuda:0,host1/cpu:0,host1/cuda:0,host2/cpu:0"
    links = uncalibrated_profile(parse_devices(names)).cluster.links
    there = {(link.src, link.dst) for link in links}
    apart = [("host1/cpu:0", "host2/cpu:0"), ("host1/cuda:0", "host2/cpu:0")]
    missing = {*apart, *((b, a) for a, b in apart)}
    every = {(a, b) for a in names.split(",") for b in names.split(",") if a != b}
    assert there == every - missing
