"""Any legal plan computes what eager PyTorch computes."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynpartition import drive
from dynpartition.models import merge_inputs, run_eagerly
from dynpartition.validator import check_trace

DEVICES = [
    "cpu:0,cpu:1",
    "cpu:0,cpu:1x0.5",
    "cuda:0,cpu:0x0.4,cpu:1,cuda:1",
    "cpu:0,cuda:0/sm16,cuda:0/sm32x0.5",
]


@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize("name", ["treelstm", "mathfunc", "moe"])
def test_any_plan_gives_the_eager_answer(backends, inputs, random_scheduler, name, devices):
    backend = backends(name, devices)

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**32), st.lists(st.sampled_from(inputs[name]), min_size=1, max_size=3))
    def check(seed, together):
        workload = merge_inputs(together) if len(together) > 1 else together[0]
        with backend.open(workload) as session:
            outcome = drive(session, random_scheduler(seed), backend.profile)
            answers = session.answers()
        for one, answer in zip(together, answers, strict=True):
            assert torch.allclose(answer, run_eagerly(one), rtol=1e-4, atol=1e-5)
            assert not answer.is_inference()
        check_trace(outcome.graph, backend.profile, outcome.plan, outcome.trace)

    check()


@pytest.mark.cuda
@pytest.mark.parametrize("devices", ["cpu:0,cpu:1,cuda:0", "cpu:0,cuda:0/sm16,cuda:0/sm32"])
@pytest.mark.parametrize("name", ["treelstm", "mathfunc", "moe"])
def test_cuda_gives_the_eager_answer(backends, inputs, models, random_scheduler, name, devices):
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    if "/" in devices:
        pytest.importorskip("cuda.bindings")
    from dynpartition import parse_devices
    from dynpartition.hardware import HardwareBackend

    with HardwareBackend(models[name], parse_devices(devices)) as backend:
        for seed in range(20):
            workload = inputs[name][seed % len(inputs[name])]
            with backend.open(workload) as session:
                outcome = drive(session, random_scheduler(seed), backend.profile)
                answer = session.answer()
            assert torch.allclose(answer, run_eagerly(workload), rtol=1e-4, atol=1e-5)
            assert len(outcome.trace.launches) == len(outcome.plan)
