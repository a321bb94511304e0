"""What a session promises besides the right numbers."""

import pytest
import torch

from dynpartition import (
    FixedPlan,
    GraphWorkload,
    Launch,
    parse_devices,
    run,
    single_task_plan,
)
from dynpartition.errors import DeviceError, InputError, OutOfDeviceMemory, PlanError
from dynpartition.hardware import HardwareBackend
from dynpartition.models import ModelInput, build_model, generate_inputs, run_eagerly
from dynpartition.validator import check_trace, overlap_ns


@pytest.fixture(scope="module")
def pair(toy):
    with HardwareBackend(toy, parse_devices("cpu:0,cpu:1"), sample_run_delay=True) as backend:
        yield backend


def steps(toy, count, ms=0):
    return ModelInput(toy, [((1, ms), ())] * count)


def test_launches_overlap_on_two_devices(toy, pair):
    # 600 ms asleep on each: a device would have to begin that late to miss the other.
    with pair.open(steps(toy, 4, ms=300)) as session:
        session.advance([Launch(f"cpu:{task % 2}", (task,)) for task in range(4)])
        assert overlap_ns(session.trace, "cpu:0", "cpu:1") > 0


def test_the_halves_of_a_tree_are_computed_at_the_same_time():
    """Nodes alternate between the devices: both compute, and the validator agrees."""
    model = build_model("treelstm", {"input_dim": 128, "hidden_dim": 256})
    tree = max(generate_inputs(model, 20, seed=1), key=lambda item: len(item.graph))
    plan = single_task_plan((t, f"cpu:{t // 2 % 2}") for t in range(len(tree.graph)))
    overlaps_ns = []
    with HardwareBackend(model, parse_devices("cpu:0,cpu:1")) as backend:
        for _ in range(5):  # a busy machine may start one device late once
            trace = run(backend, tree, FixedPlan(plan)).trace
            check_trace(tree.graph, backend.profile, plan, trace)
            overlaps_ns.append(overlap_ns(trace, "cpu:0", "cpu:1"))
    assert max(overlaps_ns) > 0


def test_an_illegal_plan_leaves_the_session_usable(toy, pair):
    with pair.open(steps(toy, 2)) as session:
        with pytest.raises(PlanError, match="in no launch"):
            session.advance([Launch("cpu:1", (0,))])
        assert len(session.plan) == 0
        assert not session.advance([Launch("cpu:1", (0, 1))])
        assert session.answer().tolist() == [[1, 0], [1, 0]]


def test_an_abandoned_session_frees_the_devices(toy, pair):
    with pair.open(steps(toy, 1)), pytest.raises(DeviceError, match="another session is open"):
        pair.open(steps(toy, 1))
    with pair.open(steps(toy, 1)) as session:
        session.advance([Launch("cpu:1", (0,))])
        assert session.trace.makespan_ns > 0


def test_results_are_asked_too_early(toy, pair):
    with pair.open(steps(toy, 1)) as session, pytest.raises(DeviceError, match="not finished"):
        session.answer()


def test_advancing_a_finished_session(toy, pair):
    with pair.open(steps(toy, 1)) as session:
        session.advance([Launch("cpu:0", (0,))])
        with pytest.raises(DeviceError, match="over"):
            session.advance([])


def test_workloads_of_others_are_refused(toy, pair, inputs):
    with pytest.raises(InputError, match="its own model 'toy'"):
        pair.open(inputs["moe"][0])
    with pytest.raises(InputError):
        pair.open(GraphWorkload(inputs["treelstm"][0].graph))


def test_run_delays_are_sampled_per_launch(toy, pair):
    with pair.open(steps(toy, 4)) as session:
        session.advance([Launch(f"cpu:{task % 2}", (task,)) for task in range(4)])
        assert len(session.run_delay_ns) == 4
        assert all(delay >= 0 for delay in session.run_delay_ns)


def test_too_little_memory_is_an_error_before_anything_runs(toy):
    with HardwareBackend(toy, parse_devices("cpu:0,cpu:1@512B")) as backend:
        workload = ModelInput(toy, [((1, 0), ())] * 100)
        with backend.open(workload) as session:
            everything = [Launch("cpu:1", (task,)) for task in range(100)]
            with pytest.raises(
                OutOfDeviceMemory, match=r"launch 64 \(step\) needs 8 bytes on cpu:1"
            ):
                session.advance(everything)
            assert not session.advance([Launch("cpu:0", tuple(range(100)))])
            assert torch.equal(session.answer(), workload.model.eager(workload.sample))


def test_inputs_larger_than_the_host_device(toy):
    with (
        HardwareBackend(toy, parse_devices("cpu:0@64B")) as backend,
        pytest.raises(OutOfDeviceMemory, match="host inputs needs 72 bytes on cpu:0"),
    ):
        backend.open(steps(toy, 9))


def test_outputs_outlive_their_backend():
    model = build_model("mathfunc", None, seed=3)
    workload = generate_inputs(model, 1, seed=4)[0]
    with HardwareBackend(model, parse_devices("cpu:0")) as backend:
        session = backend.open(workload)
        order = session.graph.topological_order
        session.advance([Launch("cpu:0", (task,)) for task in order])
    assert torch.allclose(session.answer(), run_eagerly(workload), rtol=1e-4, atol=1e-5)
