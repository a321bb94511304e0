"""Weights of devices with a memory cap: they come and go, answers stay the same."""

import gc
import mmap
import os
from pathlib import Path

import pytest
import torch
import toy_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynpartition import (
    Cluster,
    Curve,
    Device,
    FixedPlan,
    Launch,
    LoadSpan,
    Profile,
    drive,
    parse_devices,
    run,
    single_task_plan,
)
from dynpartition.errors import OutOfDeviceMemory, PlanError, ProfileError
from dynpartition.hardware import FakeStreams, HardwareBackend
from dynpartition.hardware.cuda_lane import CudaLane
from dynpartition.hardware.devices import uncalibrated_profile
from dynpartition.hardware.memory import private_memory
from dynpartition.hardware.messages import Stock
from dynpartition.hardware.shared import SharedBlock
from dynpartition.hardware.shelf import CpuShelf
from dynpartition.hardware.weights import (
    Master,
    Slots,
    hollow_copies,
    layout_of,
    master_bytes,
)
from dynpartition.models import ModelInput, build_model, generate_inputs, merge_inputs, run_eagerly
from dynpartition.sim import SimBackend
from dynpartition.validator import check_trace

TOLERANCE_NS = 1
"""Clocks agree here; it says that the trace is a real one."""

CELL_BYTES = 64 * 64 * 4
"""Weights of each cell of `HeavyToy`; its outputs and inputs are 256 bytes."""
CAP = 3 * CELL_BYTES + 12_000
"""Three of six cells, and room for 46 outputs: too little for a fourth."""


@pytest.fixture(scope="module")
def moe():
    return build_model("moe", {"width": 64}, seed=1)


@pytest.fixture(scope="module")
def moe_inputs(moe):
    return generate_inputs(moe, 6, seed=2)


@pytest.fixture(scope="module")
def heavy():
    return toy_models.HeavyToy(toy_models.HeavyConfig())


@pytest.fixture(scope="module")
def heavy_backend(heavy):
    with capped(heavy, f"cpu:0,cpu:1@{CAP}B") as backend:
        yield backend


def capped(model, devices, **more):
    return HardwareBackend(model, parse_devices(devices), streams=FakeStreams(seed=5), **more)


def weight_bytes(model):
    return sum(cell.param_bytes for cell in model.graph_cells)


def chain(model, cells):
    """One task per cell, each reading the one before."""
    return ModelInput(model, [(cell, (at - 1,) if at else ()) for at, cell in enumerate(cells)])


def all_on(device, workload):
    return FixedPlan(single_task_plan((task, device) for task in range(len(workload.graph))))


def came(trace):
    """The cells that were loaded, in order."""
    return [load.cell for load in trace.loads]


def numbers(trace):
    return [int(cell.removeprefix("heavy_")) for cell in came(trace)]


def count_returning(backend, trace):
    """Loads of what has been on the device before in the session: it was evicted."""
    held = {(name, cell) for name, cells in initially(backend).items() for cell in cells}
    count = 0
    for load in trace.loads:
        count += (load.device, load.cell) in held
        held.add((load.device, load.cell))
    return count


def initially(backend):
    stocks = backend._machine.pool.options.stocks
    return {backend.devices[index].name: stock.resident for index, stock in stocks.items()}


# Any plan


@pytest.mark.parametrize(
    "devices",
    [
        "cpu:0,cpu:1@{}B",
        "cpu:0,cuda:0@{}B",
        "cuda:0@{}B,cpu:0,cpu:1@{}B,cuda:1",
        "cpu:0,cuda:0/sm16@{}B,cuda:0/sm32,cuda:0/sm64@{}B",
    ],
)
def test_two_fifths_of_the_weights_are_enough_for_any_plan(
    moe, moe_inputs, random_scheduler, devices
):
    cap = int(0.4 * weight_bytes(moe))  # with outputs and inputs
    totals = {"loads": 0, "returning": 0}
    with capped(moe, devices.replace("{}", str(cap))) as backend:

        @settings(
            max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), database=None
        )
        @given(st.integers(0, 2**32), st.lists(st.sampled_from(moe_inputs), min_size=1, max_size=3))
        def check(seed, together):
            workload = merge_inputs(together) if len(together) > 1 else together[0]
            with backend.open(workload) as session:
                outcome = drive(session, random_scheduler(seed), backend.profile)
                answers = session.answers()
            for one, answer in zip(together, answers, strict=True):
                torch.testing.assert_close(answer, run_eagerly(one), rtol=1e-4, atol=1e-5)
            trace = outcome.trace
            check_trace(
                outcome.graph, backend.profile, outcome.plan, trace, tolerance_ns=TOLERANCE_NS
            )
            totals["loads"] += len(trace.loads)
            totals["returning"] += count_returning(backend, trace)

        check()
    assert totals["loads"] > 8
    assert totals["returning"] > 0, "nothing was evicted and loaded again"


@pytest.mark.cuda
def test_a_capped_gpu_gives_the_eager_answer(moe, moe_inputs, random_scheduler):
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    cap = int(0.4 * weight_bytes(moe))
    with HardwareBackend(moe, parse_devices(f"cpu:0,cuda:0@{cap}B")) as backend:
        loads = 0
        for seed in range(20):
            one = moe_inputs[seed % len(moe_inputs)]
            with backend.open(one) as session:
                outcome = drive(session, random_scheduler(seed), backend.profile)
                answer = session.answer()
            torch.testing.assert_close(answer, run_eagerly(one), rtol=1e-4, atol=1e-5)
            check_trace(
                outcome.graph, backend.profile, outcome.plan, outcome.trace, tolerance_ns=50_000
            )
            loads += len(outcome.trace.loads)
        assert loads


@pytest.mark.parametrize("seed", range(3))
def test_every_order_of_streams_gives_the_eager_answer(heavy, seed):
    workload = chain(heavy, [5, 0, 4, 1, 3, 2] * 3)
    devices = parse_devices(f"cpu:0,cuda:0@{CAP}B")
    with HardwareBackend(heavy, devices, streams=FakeStreams(seed=seed)) as backend:
        for _ in range(3):
            with backend.open(workload) as session:
                trace = drive(session, all_on("cuda:0", workload), backend.profile).trace
                answer = session.answer()
            torch.testing.assert_close(answer, heavy.eager(workload.sample))
            assert len(trace.loads) == 18


@pytest.mark.parametrize("forgotten", ["last use", "arrival"])
def test_a_wait_that_a_load_forgets_would_be_seen(heavy, monkeypatch, forgotten):
    class Forgetful(FakeStreams):
        loading = False

        def wait(self, stream, event):
            is_incoming = stream in [one.incoming for one in streams_of]
            if not (self.loading and is_incoming == (forgotten == "last use")):
                super().wait(stream, event)

    original = CudaLane._load

    def load(self, order):
        self._api.loading = True
        original(self, order)
        self._api.loading = False

    monkeypatch.setattr(CudaLane, "_load", load)
    workload, wrong = chain(heavy, [5, 0, 4, 1, 3, 2] * 3), []
    for seed in range(4):
        api = Forgetful(seed=seed)
        with HardwareBackend(heavy, parse_devices(f"cpu:0,cuda:0@{CAP}B"), streams=api) as backend:
            streams_of = backend._machine.streams.values()
            with backend.open(workload) as session:
                drive(session, all_on("cuda:0", workload), backend.profile)
                wrong.append(not torch.allclose(session.answer(), heavy.eager(workload.sample)))
    assert any(wrong)


# What is loaded when


@pytest.mark.parametrize("device", ["cpu:1", "cuda:0"])
def test_the_least_recently_used_cells_go_first(heavy, device):
    with capped(heavy, f"cpu:0,{device}@{CAP}B") as backend:
        workload = chain(heavy, [0, 2, 3, 0, 1, 2, 5])
        trace = run(backend, workload, all_on(device, workload)).trace
    # There are 0, 1, 2. Then 1 goes, which has not been used; then 2, 3 and 0.
    assert numbers(trace) == [3, 1, 2, 5]
    assert all(load.bytes == CELL_BYTES and load.device == device for load in trace.loads)


def test_ties_are_broken_by_name(heavy):
    with capped(heavy, f"cpu:0,cpu:1@{CAP}B") as backend:
        workload = chain(heavy, [3, 4, 5, 0, 1, 2])
        trace = run(backend, workload, all_on("cpu:1", workload)).trace
    assert numbers(trace) == [3, 4, 5, 0, 1, 2]


def test_outputs_that_do_not_fit_evict_weights(heavy):
    """Outputs and what arrives take 2 · 10 kB; there is room for 12 kB beside three cells."""
    cells = [0] * 40 + [1, 2]
    workload = ModelInput(heavy, [(cell, ()) for cell in cells])
    with capped(heavy, f"cpu:0,cpu:1@{CAP}B") as backend:
        trace = run(backend, workload, all_on("cpu:1", workload)).trace
    # All arrives first: 1 goes, the smaller name of those that have not been used. Then 2 goes.
    assert numbers(trace) == [1, 2]


def test_every_session_begins_with_the_same_weights(heavy, heavy_backend):
    workload = chain(heavy, [5, 4, 3, 2, 1, 0])
    plans = all_on("cpu:1", workload)
    first = numbers(run(heavy_backend, workload, plans).trace)
    with heavy_backend.open(workload) as session:  # given up with other weights there
        session.advance(plans.schedule(session.graph, heavy_backend.profile, session.plan)[:6])
    assert first == numbers(run(heavy_backend, workload, plans).trace) == [5, 4, 3, 2, 1, 0]


def profile_of(model, resident=None):
    """Devices that compute everything in 10 µs; cpu:1 is capped."""
    devices = Device("cpu:0", "cpu"), Device("cpu:1", "cpu", CAP, resident=resident)
    cluster = uncalibrated_profile(devices).cluster
    costs = {device.name: Curve((1,), (10_000,)) for device in devices}
    return Profile(cluster, dict.fromkeys(model.cells, costs))


@pytest.mark.parametrize("resident", [None, ("heavy_4", "heavy_1"), ()])
def test_the_simulator_loads_as_often(heavy, resident):
    """Plans whose outputs fit beside three cells: loads alone evict."""
    profile = profile_of(heavy, resident)
    counts = []
    with HardwareBackend(heavy, profile.cluster.devices, profile=profile) as backend:

        @settings(max_examples=15, deadline=None, database=None)
        @given(
            st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=14),
        )
        def check(steps):
            workload = chain(heavy, [cell for cell, _ in steps])
            plan = single_task_plan((t, f"cpu:{int(there)}") for t, (_, there) in enumerate(steps))
            real = run(backend, workload, FixedPlan(plan)).trace
            simulated = run(SimBackend(profile), workload, FixedPlan(plan)).trace
            assert came(real) == came(simulated)
            check_trace(workload.graph, profile, plan, real, tolerance_ns=TOLERANCE_NS)
            counts.append(len(came(real)))

        check()
    assert sum(counts) >= 5


# What does not fit


def test_a_cell_that_does_not_fit_is_an_error_before_anything_runs(heavy):
    with capped(heavy, "cpu:0,cpu:1@16KB") as backend:
        workload = chain(heavy, [0, 1])
        with backend.open(workload) as session:
            with pytest.raises(
                OutOfDeviceMemory,
                match=r"launch 1 \(heavy_1\) needs 16,384 bytes of weights on cpu:1 beside 512 of"
                r" outputs and inputs, but cpu:1 holds 16,000; raise its cap \(--devices"
                r" cpu:1@SIZE\) or place less on it",
            ):
                session.advance([Launch("cpu:0", (0,)), Launch("cpu:1", (1,))])
            assert len(session.plan) == 0
            session.advance([Launch("cpu:0", (0,)), Launch("cpu:0", (1,))])
            torch.testing.assert_close(session.answer(), heavy.eager(workload.sample))


def test_a_failed_step_leaves_the_ledger_as_it_was(heavy):
    """The step that fails would have evicted 0, 1 and 2."""
    with capped(heavy, f"cpu:0,cpu:1@{CAP}B") as backend:
        sample = [(0, ()), *[(cell, ()) for cell in (3, 4, 5)], *[(0, ())] * 300]
        workload = ModelInput(heavy, sample)
        with backend.open(workload) as session:
            rest = tuple(range(4, 304))
            steps = [Launch("cpu:1", (task,)) for task in range(4)]
            with pytest.raises(OutOfDeviceMemory, match=r"of weights on cpu:1|on cpu:1, which has"):
                session.advance(
                    [*steps[1:], *steps[:1], Launch("cpu:1", rest[:90]), Launch("cpu:0", rest[90:])]
                )
            session.advance(
                [*steps[:1], *[Launch("cpu:0", (t,)) for t in (1, 2, 3)], Launch("cpu:0", rest)]
            )
            assert session.trace.loads == ()


def test_residents_that_do_not_fit_are_an_error(heavy):
    profile = profile_of(heavy, ("heavy_0", "heavy_1", "heavy_2", "heavy_3"))
    with pytest.raises(OutOfDeviceMemory, match="cpu:1: the resident cells need 65536 bytes"):
        HardwareBackend(heavy, profile.cluster.devices, profile=profile)


def test_without_a_link_nothing_can_be_loaded(heavy):
    """Inputs come to cuda:1 from cuda:0 only."""
    devices = (*parse_devices("cpu:0,cuda:0"), Device("cuda:1", "cuda", CAP, resident=("heavy_0",)))
    links = uncalibrated_profile(devices).cluster.links
    kept = [link for link in links if (link.src, link.dst) != ("cpu:0", "cuda:1")]
    profile = Profile(Cluster(devices, tuple(kept)), {})
    workload = chain(heavy, [5, 0, 3])
    begin = [Launch("cuda:0", (0,)), Launch("cuda:1", (1,))]
    with (
        HardwareBackend(heavy, devices, profile=profile, streams=FakeStreams()) as backend,
        backend.open(workload) as session,
    ):
        with pytest.raises(PlanError, match=r"weights of heavy_3, but .* no link from cpu:0 to"):
            session.advance([*begin, Launch("cuda:1", (2,))])
        session.advance([*begin, Launch("cuda:0", (2,))])
        torch.testing.assert_close(session.answer(), heavy.eager(workload.sample))


def test_a_profile_with_other_caps_is_refused(heavy):
    with pytest.raises(ProfileError, match=r"caps cpu:1 at 61,152 bytes and the device list at no"):
        HardwareBackend(heavy, parse_devices("cpu:0,cpu:1"), profile=profile_of(heavy))


# What it costs


def test_devices_without_a_cap_and_the_host_hold_everything(heavy):
    workload = chain(heavy, [5, 4, 3, 2, 1, 0])
    with capped(heavy, "cpu:0@90KB,cpu:1,cuda:0") as backend:
        assert backend._machine.pool.options.stocks == {}
        for device in ("cpu:0", "cpu:1", "cuda:0"):
            trace = run(backend, workload, all_on(device, workload)).trace
            assert trace.loads == ()
            check_trace(workload.graph, backend.profile, trace_plan(workload, device), trace)


def trace_plan(workload, device):
    return single_task_plan((task, device) for task in range(len(workload.graph)))


def test_calls_are_captured_only_where_weights_stay(heavy):
    workload = chain(heavy, [0, 1, 2, 3, 4, 5])
    everything = 6 * CELL_BYTES
    for cap, captured in ((CAP, set()), (everything + 5000, set(heavy.cells))):
        with capped(heavy, f"cpu:0,cuda:0@{cap}B") as backend:
            for _ in range(2):
                run(backend, workload, all_on("cuda:0", workload))
            cache = backend._machine.graphs[1]
            assert {kind.cell for kind in cache.captured} == captured


def test_a_cell_that_is_evicted_is_captured_no_more(heavy):
    """All weights fit, until outputs push one out."""
    small = chain(heavy, [0, 1, 2, 3, 4, 5])
    large = ModelInput(heavy, [(cell, ()) for cell in [5, *[1] * 12, 0]])
    with capped(heavy, f"cpu:0,cuda:0@{6 * CELL_BYTES + 3300}B") as backend:
        cache = backend._machine.graphs[1]
        for _ in range(3):
            for workload in (small, large):
                with backend.open(workload) as session:
                    trace = drive(session, all_on("cuda:0", workload), backend.profile).trace
                    answer = session.answer()
                torch.testing.assert_close(answer, heavy.eager(workload.sample))
                assert numbers(trace) == ([] if workload is small else [0])
        assert "heavy_0" in cache.unsteady
        assert {kind.cell for kind in cache.captured} == set(heavy.cells) - cache.unsteady


def anonymous_bytes(process):
    """The private memory of a worker."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")


@needs_proc
def test_repeated_sessions_leak_nothing(heavy, heavy_backend):
    workload = chain(heavy, [5, 4, 3, 2, 1, 0])
    (worker,) = heavy_backend._machine.pool.workers

    def go(count):
        for _ in range(count):
            run(heavy_backend, workload, all_on("cpu:1", workload))
        gc.collect()
        files = len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{worker.process.pid}/fd"))
        return anonymous_bytes(worker.process), files

    before_bytes, before_files = go(20)
    after_bytes, after_files = go(100)  # 600 loads of 16 kB
    assert after_files == before_files
    assert after_bytes - before_bytes < 2_000_000


def test_repeated_sessions_on_a_gpu_leak_nothing(heavy):
    workload = chain(heavy, [5, 4, 3, 2, 1, 0])

    def tensors():
        gc.collect()
        return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())

    with capped(heavy, f"cpu:0,cuda:0@{CAP}B") as backend:
        counts = []
        for _ in range(6):
            run(backend, workload, all_on("cuda:0", workload))
            counts.append(tensors())
        (site,) = backend._machine.cuda
        assert len(site.shelf.held) == 3
    assert counts[-1] == counts[2]
    assert site.shelf.held == {}


@needs_proc
def test_a_worker_really_holds_no_more_than_its_cap():
    """24 cells of 4 MB: half of them fit. What is compared are workers that hold them all."""
    model = toy_models.HeavyToy(toy_models.HeavyConfig(width=1024, cells=24))
    used = []
    for devices in ("cpu:0,cpu:1", "cpu:0,cpu:1@200MB", "cpu:0,cpu:1@50MB"):
        with capped(model, devices) as backend:
            (worker,) = backend._machine.pool.workers
            workload = chain(model, range(24))
            for _ in range(2):
                run(backend, workload, all_on("cpu:1", workload))
            used.append(anonymous_bytes(worker.process))
    shared, all_own, half = used
    assert all_own - half > 40_000_000
    assert all_own - shared > 90_000_000  # without a cap, weights are in memory that all share


@needs_proc
def test_the_arena_of_the_last_session_makes_room_for_weights(heavy):
    """A session of few weights and many outputs, then one of many weights."""
    many = ModelInput(heavy, [(0, ())] * 80)
    with capped(heavy, f"cpu:0,cpu:1@{CAP}B") as backend:
        block = backend._machine.pool.memory.blocks[1]
        run(backend, many, all_on("cpu:1", many))
        assert block.used_bytes > 36_000
        few = chain(heavy, [0, 1])
        run(backend, few, all_on("cpu:1", few))
        assert block.used_bytes <= 2 * os.sysconf("SC_PAGE_SIZE")


def test_loads_are_listed_in_the_order_of_their_starts(heavy):
    with capped(heavy, f"cpu:0,cpu:1@{CAP}B,cuda:0@{CAP}B") as backend:
        workload = ModelInput(heavy, [(cell, ()) for cell in [5, 5, 4, 4, 3, 3]])
        plan = single_task_plan((t, ("cpu:1", "cuda:0")[t % 2]) for t in range(6))
        trace = run(backend, workload, FixedPlan(plan)).trace
    assert len(trace.loads) == 6
    starts = [load.start_ns for load in trace.loads]
    assert starts == sorted(starts)
    assert {type(load) for load in trace.loads} == {LoadSpan}


# Small parts


class Odd(torch.nn.Module):
    """A recurrent network, which keeps lists of its weights, a tied weight and two buffers."""

    def __init__(self):
        super().__init__()
        self.network = torch.nn.LSTM(5, 3)
        self.norm = torch.nn.BatchNorm1d(3)
        self.first = torch.nn.Linear(3, 3, bias=False)
        self.second = torch.nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def forward(self, values):
        states, _ = self.network(values)
        return self.second(self.first(self.norm(states))) * self.scale


@torch.inference_mode()  # as launches run
@pytest.mark.parametrize("copied", [False, True])
def test_cells_of_any_kind_compute_the_same_when_their_weights_come_back(copied):
    torch.manual_seed(0)
    cells = {"odd": Odd().eval().requires_grad_(False), "none": torch.nn.Tanh()}
    values = torch.randn(4, 5)
    expected = cells["odd"](values)
    master = Master(cells, torch.empty(master_bytes(cells), dtype=torch.uint8))
    master.write(cells)
    used = hollow_copies(cells) if copied else cells
    slots = Slots(used["odd"], master.plans["odd"])
    for _ in range(2):
        slots.hollow()
        assert used["odd"](values).isnan().all()
        slots.fill(private_memory(len(master.memory("odd"))).copy_(master.memory("odd")))
        torch.testing.assert_close(used["odd"](values), expected)
    if copied:
        torch.testing.assert_close(cells["odd"](values), expected)


def test_hollow_copies_copy_no_weights():
    cells = {"large": torch.nn.Linear(10, 10)}
    (copied,) = hollow_copies(cells).values()
    assert [p.numel() for p in copied.parameters()] == [0, 0]
    assert len(cells["large"].weight) == 10


@pytest.mark.skipif(not hasattr(mmap, "MADV_REMOVE"), reason="needs Linux")
def test_discarded_pages_cost_nothing_and_read_as_zeros():
    block = SharedBlock.create(1 << 20)
    assert block.used_bytes == 0
    block.view[:10_000] = b"x" * 10_000
    assert block.used_bytes == 3 * os.sysconf("SC_PAGE_SIZE")
    block.discard()
    assert block.used_bytes == 0
    assert bytes(block.view[:10_000]) == bytes(10_000)
    block.close()


def test_a_shelf_does_not_hold_more_than_its_cap(heavy):
    cells = hollow_copies(heavy.cells)
    master = Master(heavy.cells, torch.empty(master_bytes(heavy.cells), dtype=torch.uint8))
    arena = SharedBlock.create(4096)
    shelf = CpuShelf(cells, master, Stock(CAP, ["heavy_0", "heavy_1"]), arena)
    shelf.reset()
    shelf.check(CAP - 2 * CELL_BYTES)
    with pytest.raises(AssertionError, match="bytes of"):
        shelf.check(CAP - 2 * CELL_BYTES + 1)
    shelf.load("heavy_5")
    with pytest.raises(AssertionError, match="heavy_5 is there already"):
        shelf.load("heavy_5")
    assert shelf.held_bytes == 3 * CELL_BYTES
    shelf.reset()
    assert sorted(shelf.held) == ["heavy_0", "heavy_1"]
    arena.close()


# Weights that all processes read


def answer_on(backend, item, device):
    with backend.open(item) as session:
        plan = single_task_plan([(task, device) for task in session.graph.topological_order])
        drive(session, FixedPlan(plan), backend.profile)
    return session.answer()


def test_processes_compute_with_one_copy_of_the_weights():
    model = build_model("treelstm")
    item = generate_inputs(model, 1, seed=3)[0]
    expected = run_eagerly(item)
    with HardwareBackend(model, parse_devices("cpu:0,cpu:1"), workers="processes") as backend:
        for cell in model.cells.values():
            for parameter in cell.parameters():
                parameter.data.zero_()  # as training would: the backend has a copy
        for device in ("cpu:0", "cpu:1"):
            torch.testing.assert_close(
                answer_on(backend, item, device), expected, rtol=1e-4, atol=1e-5
            )
        backend._machine.pool.memory.master.raw.zero_()
        changed = run_eagerly(item)
        for device in ("cpu:0", "cpu:1"):
            torch.testing.assert_close(answer_on(backend, item, device), changed)
    assert not torch.allclose(changed, expected)


def test_layouts_tell_models_apart_that_share_no_weights():
    linear, wider = torch.nn.Linear(3, 4), torch.nn.Linear(4, 3)
    assert layout_of({"a": linear}) == layout_of({"a": torch.nn.Linear(3, 4)})
    others = [{"b": linear}, {"a": wider}, {"a": linear.double()}, {"a": linear, "b": wider}]
    found = {layout_of(cells) for cells in others} | {layout_of({"a": torch.nn.Linear(3, 4)})}
    assert len(found) == len(others) + 1
