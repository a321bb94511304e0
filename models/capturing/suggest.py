"""Proposes cells for a model: which submodules are worth a task of their own, by running it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dynpartition.errors import ModelError
from dynpartition.models.capturing.cells import ValueWatch
from dynpartition.models.capturing.structure import Arguments, tensors_in

SHARE_MAX = 0.25
"""A submodule that takes a larger share of the run is looked into, if its parts can be cells."""
CALL_NS_MIN = 20_000
"""Shorter calls cost as much to launch as to run, so they are left to glue."""
COVERED_MIN = 0.7
"""Share of a submodule's time that its parts must take to stand for it."""
RUNS = 5


@dataclass
class SuggestedCell:
    """A submodule that is proposed as a cell, and what was measured of it."""

    name: str
    kind: str
    """Its class."""
    calls: int
    """In one run; 0: the example does not call it, but its like."""
    call_ns: int
    """Of one call, with all inside; the fastest of several runs."""
    share: float
    """Of the time of the run."""
    param_bytes: int
    moved_bytes: int
    """Of the tensors that one call is given and returns."""


class SuggestedCells(Sequence[str]):
    """Names of cells, as `capture` takes them; printed, a table with the reasons."""

    def __init__(self, cells: Sequence[SuggestedCell]) -> None:
        self.cells = tuple(cells)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        names = [cell.name for cell in self.cells]
        return names[index]

    def __len__(self) -> int:
        return len(self.cells)

    def __str__(self) -> str:
        head = f"{'cell':<28} {'class':<20} {'calls':>5} {'µs a call':>10} {'share':>6} {'kB':>9}"
        rows = [
            f"{cell.name:<28} {cell.kind:<20} {cell.calls:>5} {cell.call_ns / 1e3:>10.1f}"
            f" {cell.share:>6.1%} {cell.param_bytes / 1e3:>9.1f}"
            for cell in self.cells
        ]
        return "\n".join([f"{head} of weights", *rows])


def suggest_cells(model: nn.Module, example: Any) -> SuggestedCells:
    """Return a cut of the model into cells, measured by running `example` a few times.

    Proposed are the largest submodules that a task can stand for (Python asks for no values in
    them, they change nothing) and that take at most a quarter of the run each; what the example
    does not call is proposed with its like in the same list. Raises ModelError when nothing is
    worth a task, and for a model in training mode.
    """
    if model.training:
        raise ModelError("the model is in training mode; call model.eval() before measuring it")
    seen = _observed(model, Arguments.of(example))
    total_ns = seen[model].best_ns
    paths = {part: path for path, part in model.named_modules()}
    chosen = _cut(model, seen, total_ns)
    if not chosen:
        raise ModelError(
            "no submodule is worth a task of its own: each is too short, changes something, or asks"
            " for values; wrap what belongs together in a module and name that"
        )
    alike = _with_their_like(model, chosen)
    return SuggestedCells([_described(part, paths[part], seen, total_ns) for part in alike])


@dataclass
class _Seen:
    """What was seen of one submodule."""

    calls: int = 0
    """In one run."""
    run_ns: int = 0
    best_ns: int = 0
    """All calls of a run together, in the fastest run."""
    moved_bytes: int = 0
    refusals: set[str] = field(default_factory=set)
    """Why no task can stand for its calls."""


class _Observer:
    """Hooks on every submodule, and who is being called just now."""

    def __init__(self, model: nn.Module) -> None:
        self.seen = {part: _Seen() for part in model.modules()}
        self._open: list[tuple[nn.Module, int, list[tuple[Tensor, int]]]] = []
        self._hooks: list[RemovableHandle] = []
        for part in self.seen:
            self._hooks.append(part.register_forward_pre_hook(self._begin, with_kwargs=True))
            self._hooks.append(part.register_forward_hook(self._end))

    def _begin(self, part: nn.Module, args: Any, kwargs: Any) -> None:
        given = tensors_in([args, kwargs])
        versions = [(tensor, tensor._version) for tensor in given if not tensor.is_inference()]
        self.seen[part].moved_bytes = sum(tensor.nbytes for tensor in given)
        self._open.append((part, time.perf_counter_ns(), versions))

    def _end(self, part: nn.Module, args: Any, result: Any) -> None:
        _, begin_ns, given = self._open.pop()
        seen, made = self.seen[part], tensors_in(result)
        seen.run_ns += time.perf_counter_ns() - begin_ns
        seen.calls += 1
        seen.moved_bytes += sum(tensor.nbytes for tensor in made)
        if any(tensor._version != version for tensor, version in given):
            seen.refusals.add("writes to its arguments")
        memory = {tensor.untyped_storage().data_ptr() for tensor, _ in given}
        if not made or any(tensor.untyped_storage().data_ptr() in memory for tensor in made):
            seen.refusals.add("returns nothing of its own")

    def refuse_open(self, why: str) -> None:
        """Note that no task can stand for what is being called."""
        for part, *_ in self._open:
            self.seen[part].refusals.add(why)

    def end_run(self) -> None:
        """Keep what was measured in a run, if it was the fastest."""
        for seen in self.seen.values():
            if seen.run_ns and (not seen.best_ns or seen.run_ns < seen.best_ns):
                seen.best_ns = seen.run_ns
            seen.run_ns = 0

    def close(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()


class _Asked(ValueWatch):
    """Tells the observer when Python asks for values."""

    def __init__(self, observer: _Observer) -> None:
        super().__init__()
        self._observer = observer

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        if self.asked:
            self._observer.refuse_open("asks for values")
            self.asked = False
        return result


def _observed(model: nn.Module, given: Arguments) -> dict[nn.Module, _Seen]:
    """Run the model a few times and return what was seen of every submodule."""
    with _observer(model) as observer, torch.no_grad():
        with _Asked(observer):  # slow, so this run tells no times
            model(*given.args, **given.kwargs)
        counts = {part: seen.calls for part, seen in observer.seen.items()}
        for seen in observer.seen.values():
            seen.run_ns = 0
        for _ in range(RUNS):
            model(*given.args, **given.kwargs)
            observer.end_run()
        for part, seen in observer.seen.items():
            seen.calls = counts[part]
        return observer.seen


@contextmanager
def _observer(model: nn.Module) -> Iterator[_Observer]:
    observer = _Observer(model)
    try:
        yield observer
    finally:
        observer.close()


def _cut(module: nn.Module, seen: dict[nn.Module, _Seen], total_ns: int) -> list[nn.Module]:
    """Return the cells inside of a submodule that is none itself."""
    chosen: list[nn.Module] = []
    for part in module.children():
        chosen += _best(part, seen, total_ns)
    return chosen


def _best(part: nn.Module, seen: dict[nn.Module, _Seen], total_ns: int) -> list[nn.Module]:
    """Return a submodule as a cell, or those inside of it."""
    own = seen[part]
    inside = _cut(part, seen, total_ns)
    if not own.calls or own.refusals:  # a list of modules is never called itself
        return inside
    covered_ns = sum(seen[one].best_ns for one in inside)
    if own.best_ns > SHARE_MAX * total_ns and covered_ns >= COVERED_MIN * own.best_ns:
        return inside
    return [part] if own.best_ns >= CALL_NS_MIN * own.calls else []


def _with_their_like(model: nn.Module, chosen: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the chosen submodules, and those of their class in the same list of modules."""
    wanted = {id(part): part for part in chosen}
    kinds: dict[nn.Module, set[type[nn.Module]]] = {}
    for parent in model.modules():
        if isinstance(parent, nn.ModuleList | nn.ModuleDict):
            kinds[parent] = {type(part) for part in parent.children() if id(part) in wanted}
    for parent, known in kinds.items():
        wanted |= {id(part): part for part in parent.children() if type(part) in known}
    return [part for part in model.modules() if id(part) in wanted]


def _described(
    part: nn.Module, path: str, seen: dict[nn.Module, _Seen], total_ns: int
) -> SuggestedCell:
    own = seen[part]
    return SuggestedCell(
        name=path,
        kind=type(part).__qualname__,
        calls=own.calls,
        call_ns=own.best_ns // max(1, own.calls),
        share=own.best_ns / total_ns,
        param_bytes=sum(tensor.nbytes for tensor in part.state_dict().values()),
        moved_bytes=own.moved_bytes,
    )
