"""What a dynamic network is: cells, and per sample a run that says which tasks exist."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import torch
from torch import nn

from dynpartition.contract import Workload
from dynpartition.graph import Cell, TaskGraph
from dynpartition.models.config import ModelConfig
from dynpartition.models.interpreter import Interpreter, unfold
from dynpartition.models.merged_runs import MergedRun
from dynpartition.models.seeds import checked_seed
from dynpartition.models.tasks import ModelRun, NewTask, StaticRun, graph_of
from dynpartition.models.weights import dump_weights, fill_weights, parameter_bytes

if TYPE_CHECKING:
    from dynpartition.models.user_file import Source

__all__ = [
    "DynamicModel",
    "ModelInput",
    "ModelRun",
    "ModelSpec",
    "NewTask",
    "StaticRun",
    "graph_of",
    "run_eagerly",
]

SampleT = TypeVar("SampleT")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What it takes to build a model again, weights aside; plain JSON values."""

    name: str
    config: Mapping[str, int]


class DynamicModel(ABC, Generic[SampleT]):
    """A network that builds a new task graph for every sample.

    Weights follow from the seed alone; they are of `config.dtype`. A cell's `forward` takes its
    arguments stacked along a leading batch axis k and returns (k, *output_shape). Cells are pure:
    they write to no argument, keep no state, and treat every row by itself.
    """

    name: str
    summary: str
    config_type: ClassVar[type[ModelConfig]]
    config: ModelConfig
    cells: Mapping[str, nn.Module]
    source: Source | None = None
    """The user's function that builds it; None: its class and its configuration do."""

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        self.config = config
        cells = _seeded(seed, self._make_cells)
        self.cells = {name: cell.to(config.dtype) for name, cell in cells.items()}

    @abstractmethod
    def _make_cells(self) -> dict[str, nn.Module]:
        """Return the cells of `self.config`, with fresh weights from torch's CPU generator."""

    @abstractmethod
    def start(self, sample: SampleT) -> ModelRun:
        """Return a new run of `sample`. Raises InputError for a sample that does not fit."""

    def start_together(self, samples: Sequence[SampleT]) -> ModelRun:
        """Return a new run of several samples; `answers` of it gives theirs, in order.

        A model whose samples are all alike may do that faster than one by one. Tasks known from the
        start stand sample by sample.
        """
        return MergedRun([self.start(sample) for sample in samples])

    @abstractmethod
    def eager(self, sample: SampleT) -> Any:
        """Return the answer for `sample` by plain PyTorch code that knows no tasks."""

    @abstractmethod
    def digest(self, sample: SampleT) -> str:
        """Return a sha256 of what the model reads of `sample`: the key for splits by content."""

    @classmethod
    @abstractmethod
    def generate(cls, count: int, seed: int, config: ModelConfig) -> list[SampleT]:
        """Return `count` samples; sample i depends on (seed, i) and the configuration alone."""

    def samples(self, count: int, seed: int) -> list[SampleT]:
        """Return `count` samples of this model's sizes; sample i depends on (seed, i) alone."""
        return self.generate(count, seed, self.config)

    @cached_property
    def graph_cells(self) -> tuple[Cell, ...]:
        """The cells as task graphs list them."""
        return tuple(Cell(name, parameter_bytes(cell)) for name, cell in self.cells.items())

    def spec(self) -> ModelSpec:
        """Return what `build_model` needs to build this model, for instance in a worker."""
        return ModelSpec(self.name, self.config.plain())

    def weights(self) -> bytes:
        """Return all parameters in the safetensors format, keyed `cell/parameter`."""
        return dump_weights(self.cells)

    def load_weights(self, data: bytes) -> None:
        """Replace all parameters; CheckpointError when `data` is damaged or does not fit."""
        fill_weights(self.cells, data)


class ModelInput(Workload):
    """One sample of one model."""

    def __init__(self, model: DynamicModel[Any], sample: Any) -> None:
        self.model = model
        self.sample = sample
        self.digest: str = model.digest(sample)
        """sha256 of what the model reads: inputs with equal digests belong in the same split."""
        self._graph: TaskGraph | None = None

    @property
    def name(self) -> str:
        """What reports call this input: the model and the first digits of the digest."""
        return f"{self.model.name}-{self.digest[:8]}"

    def start(self) -> ModelRun:
        """Return a new run; each execution needs its own."""
        return self.model.start(self.sample)

    @property
    def graph(self) -> TaskGraph:
        """The complete graph, hidden tasks included; made at first use.

        Cells run only as far as revealing tasks need, so not at all in a model without any.
        """
        if self._graph is None:
            tasks, revealed_by = unfold(self.model.cells, self.start())
            self._graph = graph_of(self.model.graph_cells, tasks, revealed_by, name=self.name)
        return self._graph


def run_eagerly(model_input: ModelInput) -> Any:
    """Return the model's answer by running its tasks one by one, in the order of their numbers.

    The reference for executors: what they compute must agree with it.
    """
    interpreter = Interpreter(model_input.model.cells, model_input.start())
    for task in interpreter.revealing():
        interpreter.compute(range(len(interpreter.outputs), task + 1))
        interpreter.expand(task)
    interpreter.compute(range(len(interpreter.outputs), len(interpreter.tasks)))
    return interpreter.answer()


def _seeded(seed: int, make: Callable[[], dict[str, nn.Module]]) -> dict[str, nn.Module]:
    # The CPU generator alone is seeded, and put back: torch.manual_seed would reseed CUDA too.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(checked_seed(seed))
        cells = make()
    return {name: cell.eval().requires_grad_(False) for name, cell in cells.items()}
