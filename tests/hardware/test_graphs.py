"""Captured calls, on the stand-in: which launches use them, and what they compute."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynpartition import Launch, Scheduler, drive, parse_devices
from dynpartition.hardware import HardwareBackend
from dynpartition.hardware.graphs import PLACES_MAX, CapturedCall, _kind, _table, places
from dynpartition.hardware.messages import Argument, Call
from dynpartition.hardware.streams import FakeStreams
from dynpartition.models import build_model, generate_inputs, merge_inputs


@pytest.fixture
def played(monkeypatch):
    """Count the launches that are replayed."""
    count = []
    original = CapturedCall.__call__

    def counting(self):
        count.append(1)
        original(self)

    monkeypatch.setattr(CapturedCall, "__call__", counting)
    return count


@pytest.mark.parametrize("name", ["treelstm", "mathfunc"])
def test_the_second_session_replays_what_the_first_one_asked_for(name, played):
    config = {"treelstm": {"input_dim": 5, "hidden_dim": 3}, "mathfunc": {"width": 4}}[name]
    model = build_model(name, config)
    merged = merge_inputs(generate_inputs(model, 3, seed=2))
    streams = FakeStreams(seed=1)
    with HardwareBackend(model, parse_devices("cpu:0,cuda:0"), streams=streams) as backend:
        replays = []
        for _ in range(3):
            with backend.open(merged) as session:
                n_tasks = len(session.graph)
                session.advance([Launch("cuda:0", (task,)) for task in range(n_tasks)])
                answers = session.answers()
            replays.append(len(played))
            for one, answer in zip(merged.inputs, answers, strict=True):
                torch.testing.assert_close(answer, model.eager(one.sample))
        assert replays == [0, n_tasks, 2 * n_tasks]


def test_a_cell_that_cannot_be_captured_is_called(played):
    class Refusing(FakeStreams):
        def capture(self, stream, work):
            raise RuntimeError("operation not permitted when stream is capturing")

    model = build_model("treelstm", {"input_dim": 5, "hidden_dim": 3})
    (one,) = generate_inputs(model, 1, seed=2)
    with HardwareBackend(model, parse_devices("cpu:0,cuda:0"), streams=Refusing()) as backend:
        for _ in range(2):
            with backend.open(one) as session:
                session.advance([Launch("cuda:0", (t,)) for t in range(len(session.graph))])
                torch.testing.assert_close(session.answer(), model.eager(one.sample))
    assert not played


@given(st.integers(1, 10**6))
def test_places_hold_the_tasks_and_less_than_twice_as_many(count):
    assert count <= places(count) < 2 * count


def test_empty_places_repeat_the_first_task():
    listed = torch.tensor([7, 5, 9]).numpy().tobytes()
    call = Call(
        [Argument((2,), "float32", 3, b""), Argument((4,), "float32", 7, listed)],
        *((2,), "float32", 11, 3),
    )
    assert _table(call, 4).tolist() == [[3, 4, 5, 3], [7, 5, 9, 7], [11, 12, 13, 11]]


def test_large_calls_have_as_many_places_as_tasks():
    call = Call([], (2,), "float32", 0, PLACES_MAX + 1)
    assert _kind("cell", call).n_places == PLACES_MAX + 1


def test_a_call_is_captured_on_what_a_finished_session_has_left():
    """A cell that takes numbers for indices fails on any other memory."""
    rows = []

    class Running(FakeStreams):
        def capture(self, stream, work):
            self.synchronize()
            before = [arena.clone() for arena in self._arenas]
            work()
            changed = [(a != b).sum().item() for a, b in zip(before, self._arenas, strict=True)]
            rows.append(sum(changed))
            return work

    model = build_model("moe")
    (one,) = generate_inputs(model, 1, seed=2)
    devices = parse_devices("cpu:0,cuda:0")
    # Arenas that are compared at every capture are better small.
    with HardwareBackend(model, devices, streams=Running(), arena_bytes=1 << 21) as backend:
        for _ in range(3):
            with backend.open(one) as session:
                drive(session, Everything(), backend.profile)
                torch.testing.assert_close(session.answer(), model.eager(one.sample))
    assert rows and not any(rows)


def test_nothing_is_captured_after_a_session_that_was_given_up(played):
    model = build_model("treelstm", {"input_dim": 5, "hidden_dim": 3})
    (one,) = generate_inputs(model, 1, seed=2)
    with HardwareBackend(model, parse_devices("cpu:0,cuda:0"), streams=FakeStreams()) as backend:
        backend.open(one).close()
        for expected in (0, len(one.graph)):
            with backend.open(one) as session:
                drive(session, Everything(), backend.profile)
            assert len(played) == expected


class Everything(Scheduler):
    """Every task on the GPU by itself."""

    name = "everything on cuda:0"

    def schedule(self, graph, profile, planned):
        done = planned.placement()
        return [Launch("cuda:0", (t,)) for t in range(len(graph)) if t not in done]
