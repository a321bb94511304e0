"""1,000 random combinations of model, numbers, devices, plan, merging and eviction: one answer."""

import random

import pytest
import torch

from dynpartition import Device
from dynpartition.hardware import FakeStreams, HardwareBackend
from dynpartition.models import build_model, generate_inputs, merge_inputs, run_eagerly

SIZES = {
    "treelstm": {"input_dim": 60, "hidden_dim": 48},
    "mathfunc": {"width": 20},
    "moe": {"width": 16, "heads": 2, "blocks": 2, "experts": 3, "chunk_tokens": 16},
}
TOLERANCES = {32: {"rtol": 1e-4, "atol": 1e-5}, 64: {"rtol": 1e-10, "atol": 1e-10}}
PER_BACKEND = 10
LOADS_MIN = {"treelstm": 30, "mathfunc": 0, "moe": 150}
"""How many times weights have to come to a device, or eviction was not tried."""

pytestmark = pytest.mark.filterwarnings("ignore:.* cores are available")


def any_devices(dice, model):
    """Return a host and one to three devices of both kinds; some cannot hold all weights."""
    sizes = [cell.param_bytes for cell in model.graph_cells]
    others = []
    for name in dice.sample(["cpu:1", "cpu:2", "cuda:0", "cuda:1"], dice.randint(1, 3)):
        outputs = dice.randint(5_000, 80_000)
        cap = dice.randint(max(sizes), sum(sizes)) + outputs
        memory_bytes = cap if dice.random() < 0.6 else None
        speed = dice.choice([1.0, 1.0, 0.5])
        others.append(Device(name, name.partition(":")[0], memory_bytes, speed))
    devices = [Device("cpu:0", "cpu"), *others]
    dice.shuffle(devices)
    first = next(number for number, device in enumerate(devices) if device.kind == "cpu")
    host = devices.index(Device("cpu:0", "cpu"))
    devices[first], devices[host] = devices[host], devices[first]  # the host is the first CPU
    return devices


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(("name", "count"), [("treelstm", 200), ("mathfunc", 150), ("moe", 150)])
def test_any_combination_gives_the_eager_answer(
    name, count, bits, random_scheduler, drive_within_memory
):
    model = build_model(name, {**SIZES[name], "float_bits": bits}, seed=bits)
    inputs = [(one, run_eagerly(one)) for one in generate_inputs(model, 12, seed=7)]
    dice = random.Random(f"{name} {bits}")
    loads = merged_launches = merged_inputs = 0
    for _ in range(count // PER_BACKEND):
        streams = FakeStreams(seed=dice.randrange(10**6))
        devices = any_devices(dice, model)
        options = {"streams": streams, "workers": "threads", "arena_bytes": 1 << 21}
        with HardwareBackend(model, devices, **options) as backend:
            for _ in range(PER_BACKEND):
                together = [dice.choice(inputs) for _ in range(dice.choice([1, 1, 2, 4]))]
                chosen = [one for one, _ in together]
                workload = merge_inputs(chosen) if len(chosen) > 1 else chosen[0]
                scheduler = random_scheduler(dice.randrange(10**6))
                with backend.open(workload) as session:
                    drive_within_memory(session, scheduler, backend.profile)
                    answers = session.answers()
                for (_, expected), answer in zip(together, answers, strict=True):
                    assert answer.dtype == model.config.dtype
                    torch.testing.assert_close(answer, expected, **TOLERANCES[bits])
                loads += len(session.trace.loads)
                merged_launches += any(len(launch.tasks) > 1 for launch in session.plan.launches)
                merged_inputs += len(together) > 1
    assert merged_launches > count / 2
    assert merged_inputs > count / 4
    assert loads >= LOADS_MIN[name]
