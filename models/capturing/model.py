"""A captured model: an ordinary PyTorch module, its cells, and the runs of its samples."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from dynpartition.errors import InputError, ModelError, did_you_mean
from dynpartition.models.capturing.cells import GLUE, CapturedCell, GlueCell
from dynpartition.models.capturing.evaluation import Evaluation, Outputs
from dynpartition.models.capturing.learning import Lesson
from dynpartition.models.capturing.packing import Packing
from dynpartition.models.capturing.run import CapturedRun
from dynpartition.models.capturing.stage import Pattern
from dynpartition.models.capturing.structure import Arguments, digest_of, tensors_in
from dynpartition.models.capturing.values import (
    ACTIVE,
    CellCalling,
    Format,
    OpCalling,
    TaskNode,
    filled,
)
from dynpartition.models.config import ModelConfig
from dynpartition.models.model import DynamicModel

CellChoice = str | type[nn.Module] | nn.Module
"""A submodule by its path (`encoder.block1`, with `*` for any part), its class, or itself."""
Samples = Callable[[int, int], Sequence[Any]]
"""(count, seed) → samples."""


class Entry:
    """Stands in the place of a cell's `forward`: records the call while its model is captured."""

    def __init__(self, name: str, module: nn.Module, token: str) -> None:
        self.name = name
        self.token = token
        self._module = module
        self._before: Callable[..., Any] | None = module.__dict__.get("forward")
        self._forget()

    def _forget(self) -> None:
        self.known: dict[Any, CellCalling] = {}
        """What calls return, by the shapes of their arguments."""
        self.lesson = Lesson(self.name, self._module, self.original)

    def original(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module as if nothing had been captured."""
        if self._before is not None:
            return self._before(*args, **kwargs)
        return type(self._module).forward(self._module, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Record the call, or make it."""
        recorder = ACTIVE.recorder
        if recorder is None or recorder.token != self.token:
            return self.original(*args, **kwargs)
        return recorder.call(self, args, kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("known", "lesson")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


class CapturedModel(DynamicModel[Any]):
    """An ordinary PyTorch module as a dynamic model. Make one with `dynpartition.capture`.

    A sample is the argument of the module's `forward`, or `Arguments` for several. The answer is
    what `forward` returns.
    """

    name: str
    summary = "a captured PyTorch module"
    config_type = ModelConfig

    def __init__(
        self,
        module: nn.Module,
        cells: Sequence[CellChoice],
        *,
        name: str | None = None,
        samples: Samples | None = None,
    ) -> None:
        self.config = ModelConfig()
        self.name = name or type(module).__qualname__
        self._samples = samples
        self._capture(module, cells)

    def _capture(self, module: nn.Module, cells: Sequence[CellChoice]) -> None:
        self.module = module
        self.token = uuid.uuid4().hex
        self._forget()
        chosen = chosen_cells(module, cells)
        for part in chosen.values():
            _check_cell(part)
        self._entries = {cell: Entry(cell, part, self.token) for cell, part in chosen.items()}
        for cell, part in chosen.items():
            part.__dict__["forward"] = self._entries[cell]
        self.cells = {cell: CapturedCell(part) for cell, part in chosen.items()}
        self.cells[GLUE] = GlueCell(_outside(module, chosen.values()))
        self._know_weights()

    def _forget(self) -> None:
        """Begin without anything learnt of operations and tasks."""
        self.callings: dict[Any, OpCalling | None] = {}
        self.ordinary: set[Any] = set()
        """Functions that are recorded as they are called."""
        self.patterns: dict[Any, Pattern] = {}
        self.quick_patterns: dict[Any, Pattern] = {}
        self._packings: dict[tuple[Format, ...], Packing] = {}

    def forget_operations(self) -> None:
        """Make room: what has been learnt of operations is learnt again."""
        self.callings.clear()
        self.patterns.clear()
        self.quick_patterns.clear()

    def _know_weights(self) -> None:
        glue = self.cells[GLUE]
        assert isinstance(glue, GlueCell)
        self.weight_names = {id(tensor): name for name, tensor in glue.weights.items()}
        """Weights that belong to no cell, by the identity of their tensor."""

    def __getstate__(self) -> dict[str, Any]:
        learnt = ("callings", "ordinary", "patterns", "quick_patterns", "_packings", "weight_names")
        return {name: value for name, value in self.__dict__.items() if name not in learnt}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()
        self._know_weights()

    def _make_cells(self) -> dict[str, nn.Module]:
        return dict(self.cells)

    def start(self, sample: Any) -> CapturedRun:
        """Return a new run of a sample. Raises InputError for one that requires gradients."""
        if self.module.training:
            raise ModelError(f"{self.name} is in training mode; call eval() on it before it runs")
        sample = self._prepared(sample)
        given = Arguments.of(sample)
        if any(tensor.requires_grad for tensor in tensors_in([given.args, given.kwargs])):
            raise InputError(
                f"the sample of {self.name} requires gradients, but captured models run forward"
                " only; detach() it"
            )
        return CapturedRun(self, sample)

    def eager(self, sample: Any) -> Any:
        """Return what the module returns, called as ever."""
        given = Arguments.of(self._prepared(sample))
        with torch.no_grad():
            return self.module(*given.args, **given.kwargs)

    def _prepared(self, sample: Any) -> Any:
        """Return the sample as the module is given it."""
        return sample

    def digest(self, sample: Any) -> str:
        """Return the digest of all tensors and values of a sample."""
        given = Arguments.of(sample)
        return digest_of([list(given.args), given.kwargs])

    @classmethod
    def generate(cls, count: int, seed: int, config: ModelConfig) -> list[Any]:
        """Raise InputError: the class alone has no samples."""
        raise InputError("samples of a captured model come from its own `samples`")

    def samples(self, count: int, seed: int) -> list[Any]:
        """Return samples from the function given to `capture`; InputError without one."""
        if self._samples is None:
            raise InputError(
                f"{self.name} was captured without samples, so none can be generated; give"
                " capture(…, samples=function), a function of (count, seed)"
            )
        return list(self._samples(count, seed))

    def owns(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in the memory of the module's weights."""
        weights = self.module.state_dict(keep_vars=True).values()
        memory = tensor.untyped_storage().data_ptr()
        return any(weight.untyped_storage().data_ptr() == memory for weight in weights)

    def packing(self, formats: tuple[Format, ...]) -> Packing:
        """Return how glue packs what it outputs; the same object for the same formats."""
        return self._packings.setdefault(formats, Packing.of(formats))

    def run_task(self, node: TaskNode, evaluation: Evaluation) -> Outputs:
        """Return what a task outputs, computed here and now."""
        if node.outputs:
            return {number: evaluation.value(ref) for number, ref in enumerate(node.outputs)}
        leaves = [evaluation.value(leaf) for leaf in node.leaves]
        calling = node.calling
        assert calling is not None
        args, kwargs = filled(calling.args, leaves), filled(calling.kwargs, leaves)
        return dict(enumerate(tensors_in(self._entries[node.cell].original(*args, **kwargs))))

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Call the module's parts inside a block without recording."""
        before, ACTIVE.recorder = ACTIVE.recorder, None
        try:
            with torch.no_grad():
                yield
        finally:
            ACTIVE.recorder = before


def capture(
    model: nn.Module,
    cells: Sequence[CellChoice],
    *,
    name: str | None = None,
    samples: Samples | None = None,
) -> CapturedModel:
    """Return a dynamic model of any PyTorch module; its code stays as it is.

    `cells`: the submodules whose calls become tasks, by path, class, or themselves; of one inside
    another the outer one counts. `samples`: a function of (count, seed) that returns samples, for
    commands that generate inputs. Raises ModelError for submodules that are not there, and for a
    model in training mode.
    """
    return CapturedModel(model, cells, name=name, samples=samples)


def chosen_cells(module: nn.Module, cells: Sequence[CellChoice]) -> dict[str, nn.Module]:
    """Return the chosen submodules by their path; ModelError for what is not there."""
    if isinstance(cells, str | type | nn.Module):
        cells = [cells]
    names: dict[nn.Module, str] = {}
    for path, part in module.named_modules():
        names.setdefault(part, path)
    chosen: dict[str, nn.Module] = {}
    for choice in cells:
        found = {
            path: part for part, path in names.items() if path and _is_meant(choice, path, part)
        }
        if not found:
            known = [path for path in names.values() if path]
            shown = choice if isinstance(choice, str) else getattr(choice, "__qualname__", choice)
            remedy = did_you_mean(str(shown), known) if known else "it has no submodules"
            raise ModelError(
                f"cell {shown} is no submodule of {type(module).__qualname__}; {remedy}"
            )
        chosen |= found
    if not chosen:
        raise ModelError("no cells are named; give the submodules whose calls become tasks")
    if GLUE in chosen:
        raise ModelError(f"a cell is called {GLUE!r}, a name that is taken; rename that submodule")
    return chosen


def _is_meant(choice: CellChoice, path: str, part: nn.Module) -> bool:
    if isinstance(choice, str):
        return path == choice or ("*" in choice and _matches(path, choice))
    if isinstance(choice, nn.Module):
        return part is choice
    return isinstance(part, choice)


def _matches(path: str, pattern: str) -> bool:
    parts, wanted = path.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _check_cell(part: nn.Module) -> None:
    kind = type(part).__qualname__
    before = part.__dict__.get("forward")
    if before is not None and not isinstance(before, Entry):
        raise ModelError(f"a cell of class {kind} has a forward of its own instance; remove that")
    if isinstance(part, torch.jit.ScriptModule):
        raise ModelError(f"a cell of class {kind} is TorchScript; choose the module it was made of")
    if part._forward_hooks or part._forward_pre_hooks:
        raise ModelError(
            f"a cell of class {kind} has forward hooks, which would see no numbers; remove them,"
            " or choose the module around it"
        )
    if any(one.training for one in part.modules()):
        raise ModelError(f"a cell of class {kind} is in training mode; call model.eval() first")
    if any(parameter.device.type != "cpu" for parameter in part.parameters()):
        raise ModelError(f"a cell of class {kind} is not in host memory; call model.cpu() first")


def _outside(module: nn.Module, cells: Any) -> dict[str, Tensor]:
    """Return the parameters and buffers that belong to no cell."""
    inside = {id(tensor) for cell in cells for tensor in cell.state_dict(keep_vars=True).values()}
    return {
        name: tensor
        for name, tensor in module.state_dict(keep_vars=True).items()
        if isinstance(tensor, Tensor) and id(tensor) not in inside
    }
