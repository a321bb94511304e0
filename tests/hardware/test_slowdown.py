"""A slowed device repeats its work, exactly as often as its speed says."""

import pytest
import torch

from dynpartition import Launch, parse_devices
from dynpartition.hardware import HardwareBackend
from dynpartition.hardware.compute import Repeater
from dynpartition.models import build_model, generate_inputs, run_eagerly


@pytest.mark.parametrize(
    ("speed", "expected"),
    [
        (1.0, [1, 1, 1, 1]),
        (0.5, [2, 2, 2, 2]),
        (0.4, [2, 3, 2, 3]),
        (0.3, [3, 3, 4, 3, 3, 4]),
        (0.75, [1, 1, 2, 1, 1, 2]),
        (0.01, [100, 100]),
    ],
)
def test_repeats_carry_remainders_over(speed, expected):
    repeater = Repeater(speed)
    assert [repeater.next() for _ in expected] == expected


@pytest.mark.parametrize("devices", ["cpu:0x0.4", "cpu:0x0.4,cpu:1x0.4"])
def test_the_session_counts_the_repeats_of_each_device(devices):
    model = build_model("mathfunc", None, seed=1)
    workload = generate_inputs(model, 1, seed=2)[0]
    slow = devices.rpartition(",")[2].partition("x")[0]
    with HardwareBackend(model, parse_devices(devices)) as backend:
        session = backend.open(workload)
        order = session.graph.topological_order
        session.advance([Launch(slow, (task,)) for task in order])
        assert session.repeats == tuple(2 + n % 2 for n in range(len(order)))
        assert torch.allclose(session.answer(), run_eagerly(workload), rtol=1e-4, atol=1e-5)


def test_a_slowed_device_really_computes_each_launch_again():
    """Calls of the cells are counted, not time: other programs may share the machine."""
    model = build_model("mathfunc", None, seed=1)
    workload = generate_inputs(model, 1, seed=2)[0]
    calls = []
    for cell in model.cells.values():
        cell.register_forward_hook(lambda *_: calls.append(1))
    with (
        HardwareBackend(model, parse_devices("cpu:0x0.25")) as backend,
        backend.open(workload) as session,
    ):
        order = session.graph.topological_order
        session.advance([Launch("cpu:0", (task,)) for task in order])
    assert len(calls) == 4 * len(order)
