"""Hidden tasks appear when their router's output is on the host, and not before."""

import time

import pytest

from dynpartition import Launch, drive, parse_devices
from dynpartition.hardware import HardwareBackend
from dynpartition.models import ModelInput


@pytest.mark.parametrize("devices", ["cpu:0,cpu:1", "cuda:0,cpu:0x0.4,cpu:1,cuda:1"])
def test_the_complete_graph_is_never_touched(backends, inputs, models, random_scheduler, devices):
    class Sealed(ModelInput):
        @property
        def graph(self):
            raise AssertionError("a hardware backend may not look at hidden tasks")

    backend = backends("moe", devices)
    workload = Sealed(models["moe"], inputs["moe"][0].sample)
    scheduler = random_scheduler(0)
    with backend.open(workload) as session:
        outcome = drive(session, scheduler, backend.profile)
    assert len(scheduler.sizes) == 3
    assert scheduler.sizes == sorted(set(scheduler.sizes))
    assert [reveal.task for reveal in outcome.trace.reveals] == list(outcome.graph.revealers)


def test_revealed_tasks_start_after_their_revealer_is_known(backends, inputs, random_scheduler):
    backend = backends("moe", "cpu:0,cpu:1")
    with backend.open(inputs["moe"][1]) as session:
        first = session.graph
        assert (first.revealed_by == -1).all()
        outcome = drive(session, random_scheduler(3), backend.profile)
        seen_ns = session.seen_ns
    known_ns = {reveal.task: reveal.known_ns for reveal in outcome.trace.reveals}
    for reveal in outcome.trace.reveals:
        assert reveal.end_ns <= seen_ns[reveal.task] <= reveal.known_ns
    for span in outcome.trace.launches:
        for task in span.tasks:
            gates = outcome.graph.gates[task]
            assert all(known_ns[gate] <= span.start_ns for gate in gates)


def test_the_graph_shown_is_the_models_own(backends, inputs, random_scheduler):
    backend = backends("moe", "cpu:0,cpu:1")
    with backend.open(inputs["moe"][2]) as session:
        outcome = drive(session, random_scheduler(5), backend.profile)
    # A revealing task does not return, though its value has to come to the host.
    assert not any(outcome.graph.returns[task] for task in outcome.graph.revealers)
    # Both routers of this model reveal one after the other: numbers agree with the complete graph.
    assert outcome.graph.digest == inputs["moe"][2].graph.digest


def test_a_value_is_handled_while_other_launches_are_left(toy_revealing):
    """0 reveals; 1, 2, 3 are long and planned after it, on the device of the caller."""
    backend, workload = toy_revealing
    with backend.open(workload) as session:
        first = [Launch("cpu:1", (0,)), *(Launch("cpu:0", (task,)) for task in (1, 2, 3))]
        assert session.advance(first)
        assert len(session.graph) == 5
        time.sleep(0.05)  # the scheduler decides
        assert not session.advance([Launch("cpu:1", (4,))])
        trace, seen_ns = session.trace, session.seen_ns[0]
    known_ns = trace.reveals[0].known_ns
    assert known_ns < trace.launches[3].start_ns
    # The caller decides between two launches of its own device; neither contains the decision.
    assert known_ns - seen_ns >= 50_000_000
    assert all(span.end_ns <= seen_ns or span.start_ns >= known_ns for span in trace.launches)
    assert session.answer().tolist() == workload.model.eager(workload.sample).tolist()


def test_late_outputs_are_pushed_once_a_reader_is_revealed(toy_revealing):
    """Task 4 reads 0, 1, 2 and 3; these stayed on cpu:0, some run already and some not yet."""
    backend, workload = toy_revealing
    with backend.open(workload) as session:
        assert session.advance([Launch("cpu:0", (task,)) for task in (1, 0, 2, 3)])
        assert not session.advance([Launch("cpu:1", (4,))])
        trace = session.trace
    late = [span for span in trace.transfers if not span.host_input and span.dst == "cpu:1"]
    assert sorted(task for span in late for task in span.tasks) == [0, 1, 2, 3]
    assert all(span.start_ns >= trace.reveals[0].known_ns for span in late)
    # What could be pushed at once went before the next launch: two outputs and the new input.
    before = [span for span in trace.transfers if span.end_ns <= trace.launches[2].start_ns]
    assert {(span.tasks, span.host_input) for span in before} == {
        *(((0,), False), ((1,), False), ((4,), True))
    }
    assert session.answer().tolist() == workload.model.eager(workload.sample).tolist()


def test_a_device_that_waits_for_the_caller_takes_a_message_of_any_size():
    """More orders than a socket holds: cpu:1 waits for task 1 and still has to read them."""
    import toy_models

    count = 3_000
    model = toy_models.FanToy(toy_models.ModelConfig())
    with (
        HardwareBackend(model, parse_devices("cpu:0,cpu:1")) as backend,
        backend.open(ModelInput(model, count)) as session,
    ):
        assert session.advance([Launch(f"cpu:{task // 2}", (task,)) for task in range(3)])
        assert not session.advance([Launch("cpu:1", (3 + n,)) for n in range(count)])
        assert session.answer().tolist() == [2.0, 0.0]
