"""The CUDA path on a stand-in that runs enqueued work in any order that the waits allow."""

import pytest
import torch

from dynpartition import Device, drive, parse_devices
from dynpartition.hardware import FakeStreams, HardwareBackend
from dynpartition.models import run_eagerly

CPU = Device("cuda:0", "cuda")


def answers(models, inputs, random_scheduler, streams):
    devices = parse_devices("cuda:0,cpu:0,cuda:1")
    with HardwareBackend(models["treelstm"], devices, streams=streams) as backend:
        for seed in range(8):
            with backend.open(inputs["treelstm"][seed % 6]) as session:
                drive(session, random_scheduler(seed), backend.profile)
                yield session.answer(), run_eagerly(inputs["treelstm"][seed % 6])


@pytest.mark.parametrize("seed", range(3))
def test_every_order_of_streams_gives_the_eager_answer(models, inputs, random_scheduler, seed):
    for answer, expected in answers(models, inputs, random_scheduler, FakeStreams(seed=seed)):
        assert torch.allclose(answer, expected, rtol=1e-4, atol=1e-5)


def test_a_missing_wait_would_be_seen(models, inputs, random_scheduler):
    streams = FakeStreams(seed=0, ignore_waits=True)
    wrong = [
        not torch.allclose(answer, expected, rtol=1e-4, atol=1e-5)
        for answer, expected in answers(models, inputs, random_scheduler, streams)
    ]
    assert any(wrong)


def test_work_waits_for_events():
    streams, done = FakeStreams(), []
    first, second = streams.stream(CPU), streams.stream(CPU)
    streams.enqueue(first, lambda: done.append("first"))
    event = streams.record(first)
    streams.wait(second, event)
    streams.enqueue(second, lambda: done.append("second"))
    assert done == []
    streams.synchronize()
    assert done == ["first", "second"]
    assert streams.has_happened(event)


def test_streams_that_wait_for_each_other_are_an_error():
    streams = FakeStreams()
    first, second = streams.stream(CPU), streams.stream(CPU)
    events = streams.record(first), streams.record(second)
    first.work.appendleft(events[1])
    second.work.appendleft(events[0])
    with pytest.raises(AssertionError, match="wait for each other"):
        streams.synchronize()
