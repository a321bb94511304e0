"""A GPU of another host by itself: what reaches it by its mirror, and when.

cpu:0 (rank 0) ──mirror──► host1/cuda:0 ──mirror──► cpu:0
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from dynpartition.hardware import FakeStreams
from dynpartition.hardware.control import CONTROL_BYTES, Arrivals, Control
from dynpartition.hardware.gpu_worker import gpu_device
from dynpartition.hardware.host_memory import HostMemory
from dynpartition.hardware.messages import CopyOrder, Segment, Setup
from dynpartition.hardware.shared import SharedBlock
from dynpartition.program import COPY

FROM_HOST, TO_HOST = 0, 1
"""Transfers."""
SPANS = {FROM_HOST: (640, 128, 64), TO_HOST: (256, 512, 64)}
"""Offset at the source, at the destination, and bytes."""


def setup_of(blocks):
    return Setup(
        *(("", ""), [], {}, (blocks[1].fd, 128), "", 0, 1, ["cpu:0", "host1/cuda:0"], 1.0, None),
        polite=True,
        control_fd=blocks[0].fd,
        arenas=[None, (blocks[2].fd, 4096)],
        sample_run_delay=False,
        arena_bytes=[4096, 4096],
    )


@pytest.fixture
def world():
    """A GPU, its mirror, and the flags that it shares with the server of its host."""
    blocks = [SharedBlock.create(size) for size in (CONTROL_BYTES, 128, 4096)]
    model, setup = SimpleNamespace(cells={"cell": nn.Linear(1, 1)}), setup_of(blocks)
    device = gpu_device(setup, model, FakeStreams(1, seed=4))
    memory, mirror = device.site.arenas[1].raw, device.mirrors[1].raw
    with torch.inference_mode():  # as in workers
        there = SimpleNamespace(
            device=device, memory=memory, mirror=mirror, control=Control(blocks[0])
        )
        yield there
    vars(there).clear()  # tests hold it for longer
    for block in blocks:
        block.close()


def test_a_session_that_began_does_not_end_because_a_slow_wire_tells_of_one_before():
    blocks = [SharedBlock.create(size) for size in (CONTROL_BYTES, 128, 4096)]
    memory = HostMemory(setup_of(blocks))
    for epoch in (3, 5, 4, 5):
        memory.go(epoch)
    assert memory.control.has_gone(5)
    for closed in (memory, *blocks):
        closed.close()


def segment(epoch, copies=(), code=()):
    orders = [
        CopyOrder(copy, *((1, 0) if copy == TO_HOST else (0, 1)), [SPANS[copy]]) for copy in copies
    ]
    rows = np.array(code, dtype=np.int64).reshape(-1, 3)
    return Segment(epoch, rows.tobytes(), [], orders)


def comes(world, epoch):
    """Let the transfer from the host come, as the host's server does it."""
    world.mirror[128:192] = 7
    Arrivals(world.control, epoch).set(FROM_HOST)


def has_come(world):
    return bool((world.memory[128:192] == 7).all())


def test_what_has_come_is_fetched_before_the_report(world):
    run = world.device.open_run(1, False)
    run.extend(segment(1, [FROM_HOST]))
    comes(world, 1)
    assert not has_come(world)
    run.report()
    assert has_come(world)


def test_what_comes_after_the_report_is_there_when_the_session_goes_on(world):
    run = world.device.open_run(1, False)
    run.extend(segment(1, [FROM_HOST]))
    run.report()
    comes(world, 1)
    world.device.open_run(2, True)
    assert has_come(world)


def test_another_session_begins_without_what_came_late(world):
    run = world.device.open_run(1, False)
    run.extend(segment(1, [FROM_HOST]))
    run.report()
    comes(world, 1)
    world.device.open_run(2, False)
    assert not has_come(world)


def test_what_leaves_lies_in_the_mirror_where_it_lay_and_is_announced_then(world):
    run = world.device.open_run(1, False)
    world.memory[256:320] = 9
    run.extend(segment(1, [TO_HOST], [[COPY, TO_HOST, 0]]))
    assert run.must_go_on
    arrivals = Arrivals(world.control, 1)
    while not run.is_done:
        assert not arrivals.has(TO_HOST) or bool((world.mirror[256:320] == 9).all())
        run.step()
    assert arrivals.has(TO_HOST)
    assert bool((world.mirror[256:320] == 9).all())
    (stamp,) = run.report().copies
    assert stamp.copy == TO_HOST and stamp.start_ns <= stamp.end_ns


def test_a_report_announces_what_has_left(world):
    run = world.device.open_run(1, False)
    world.memory[256:320] = 9
    run.extend(segment(1, [TO_HOST], [[COPY, TO_HOST, 0]]))
    run.step()
    run.report()
    assert Arrivals(world.control, 1).has(TO_HOST)
    assert torch.equal(world.mirror[256:320], torch.full((64,), 9, dtype=torch.uint8))
