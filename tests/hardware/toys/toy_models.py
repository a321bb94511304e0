"""A model whose cells wait, burn time and fail on demand; worker processes import it by name."""

import hashlib
import sys
import threading
import time
from dataclasses import dataclass

import torch
from torch import nn

from dynpartition.models import DynamicModel, ModelConfig, NewTask, StaticRun

NO_MEMORY = {-2: "worker", -3: "host", -4: "gpu"}
"""Request → where there is no memory for it, not even for one task."""
CROWDED = -5
"""No memory for more than `CROWD` such tasks."""
CROWD = 3
FAULT = -6
"""Breaks a real GPU, for this process for good."""

on_gpu = False
"""Whether the stand-in of a GPU is at work; tests say so."""


def _place():
    is_process = sys.argv[0].endswith("worker.py")
    if is_process or threading.current_thread() is not threading.main_thread():
        return "worker"
    return "gpu" if on_gpu else "host"


class Step(nn.Module):
    """Add the host input to the state: entry 0 counts; entry 1 sleeps ms; below 0 it fails."""

    def forward(self, *arguments):
        request = arguments[-1]  # (k, 2)
        requests = set(request[:, 1].tolist())
        if _place() in [NO_MEMORY[code] for code in requests & NO_MEMORY.keys()]:
            raise MemoryError("the toy cell was asked to have no memory")
        if (request[:, 1] == CROWDED).sum() > CROWD:
            raise MemoryError(f"{len(request)} tasks are too many")
        if FAULT in requests and request.is_cuda:
            request[torch.full((1,), 10**6, device=request.device)]
        request = request.where(request >= -1, 0)
        if (request[:, 1] < 0).any():
            raise ValueError("the toy cell was asked to fail")
        time.sleep(float(request[:, 1].sum()) / 1000)
        return sum(arguments[:-1], start=torch.zeros_like(request)) + request


class Toy(DynamicModel):
    """A sample is a list of ((count, ms), inputs); every task returns its sum."""

    name = "toy"
    summary = "steps that wait or fail on demand"
    config_type = ModelConfig

    def _make_cells(self):
        return {"step": Step()}

    def start(self, sample):
        tasks = [
            NewTask(
                cell="step",
                inputs=tuple(inputs),
                output_shape=(2,),
                host_input=torch.tensor(request, dtype=torch.float32),
                returns=True,
            )
            for request, inputs in sample
        ]
        return StaticRun(tasks, lambda outputs: torch.stack([outputs[t] for t in sorted(outputs)]))

    def eager(self, sample):
        sums = []
        for (count, ms), inputs in sample:
            own = torch.tensor((count, max(0, ms)), dtype=torch.float32)
            sums.append(sum((sums[i] for i in inputs), start=own))
        return torch.stack(sums)

    def digest(self, sample):
        return hashlib.sha256(repr(sample).encode()).hexdigest()

    @classmethod
    def generate(cls, count, seed, config):
        return [[((1, 0), ())]] * count


class RevealingRun(StaticRun):
    """Task 0 reveals task 4, which reads all others."""

    def expand(self, task, output):
        assert task == 0
        return [
            NewTask(
                cell="step",
                inputs=(0, 1, 2, 3),
                output_shape=(2,),
                host_input=torch.ones(2),
                returns=True,
            )
        ]


class FanRun(StaticRun):
    """Task 0 reveals `count` tasks, the last of which returns."""

    def __init__(self, tasks, count):
        super().__init__(tasks, lambda outputs: outputs[2 + count])
        self._count = count

    def expand(self, task, output):
        assert task == 0
        tail = [number == self._count - 1 for number in range(self._count)]
        return [_counting((0,), returns=is_last) for is_last in tail]


class FanToy(Toy):
    """Tasks 0 and 1, task 2 that reads 1, and `sample` tasks that 0 reveals and that read it."""

    name = "fan-toy"

    def start(self, sample):
        return FanRun([_counting((), reveals=True), _counting(()), _counting((1,))], sample)


def _counting(inputs, **more):
    host_input = torch.tensor([1.0, 0.0])
    return NewTask(cell="step", inputs=inputs, output_shape=(2,), host_input=host_input, **more)


class RevealingToy(Toy):
    """Four tasks of `sample` ms each, and one that the first of them reveals."""

    name = "revealing-toy"

    def start(self, sample):
        requests = [torch.tensor([1.0, sample if number else 1]) for number in range(4)]
        tasks = [
            NewTask(cell="step", output_shape=(2,), host_input=request, reveals=number == 0)
            for number, request in enumerate(requests)
        ]
        return RevealingRun(tasks, lambda outputs: outputs[4])

    def eager(self, sample):
        return torch.tensor([5.0, 2 + 3 * sample])


class Heavy(nn.Module):
    """Weights of 4 · width² bytes, and outputs of 4 · width."""

    def __init__(self, width):
        super().__init__()
        self.mix = nn.Linear(width, width, bias=False)

    def forward(self, *arguments):
        return torch.tanh(self.mix(sum(arguments)))


@dataclass(frozen=True)
class HeavyConfig(ModelConfig):
    """Sizes of the chain."""

    width: int = 64
    cells: int = 6


class HeavyToy(Toy):
    """A sample lists (cell, inputs); tasks without inputs read ones, and every task returns."""

    name = "heavy-toy"
    config_type = HeavyConfig

    def _make_cells(self):
        return {f"heavy_{i}": Heavy(self.config.width) for i in range(self.config.cells)}

    def start(self, sample):
        shape = (self.config.width,)
        tasks = [
            NewTask(
                cell=f"heavy_{cell}",
                inputs=tuple(inputs),
                output_shape=shape,
                host_input=None if inputs else torch.ones(shape),
                returns=True,
            )
            for cell, inputs in sample
        ]
        return StaticRun(tasks, lambda outputs: torch.stack([outputs[t] for t in sorted(outputs)]))

    @torch.inference_mode()
    def eager(self, sample):
        made = []
        for cell, inputs in sample:
            given = [made[i] for i in inputs] or [torch.ones(1, self.config.width)]
            made.append(self.cells[f"heavy_{cell}"](*given))
        return torch.cat(made)
