"""Cells around user modules: one launch of k tasks, whatever the module makes of a leading axis."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dynpartition.models.capturing.packing import Packing
from dynpartition.models.capturing.programs import Program, parse_program
from dynpartition.models.capturing.structure import tensors_in
from dynpartition.models.variants import VariedCell

GLUE = "glue"
"""The cell whose tasks are operations between cells, and whose weights belong to no cell."""

VARIANTS_MAX = 4096
"""Variants that a cell keeps ready; then it begins anew."""
WAYS_MAX = 4096
"""Shapes of arguments of which a function remembers how it runs them in batches; the same."""

_TOLERANCES = {torch.float64: (1e-9, 1e-10), torch.float32: (1e-4, 1e-5)}
_COARSE = (2e-2, 2e-2)
"""Tolerances (relative, absolute) of what is computed in a batch and alone."""

NEEDS_VALUES = frozenset(
    {
        *("item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__"),
        *("__complex__", "__array__", "__contains__", "is_nonzero", "equal", "allclose"),
        *("nonzero", "argwhere", "unique", "unique_consecutive", "masked_select", "bincount"),
    }
)
"""Names of functions whose result, or its shape, needs the values of their arguments."""


class ValueWatch(TorchFunctionMode):
    """Notes whether Python asks for values of tensors inside a block."""

    asked: bool = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function."""
        self.asked |= getattr(func, "__name__", "") in NEEDS_VALUES
        return func(*args, **(kwargs or {}))


RowFunction = Callable[[Sequence[Tensor]], list[Tensor]]
"""Arguments of one task → its outputs."""


class Batched:
    """A function of one task's tensors, called for k tasks at once.

    How is found out when a batch of some shapes is first called, and again when a batch is eight
    times as large as all before: the launch axis joined with the first axis of the arguments; left
    in front of all axes; the function's own way, if it has one; `torch.vmap`; else one task after
    the other. A way counts only if its results agree
    with those of the tasks alone, on the arguments and on others like them.
    """

    def __init__(self, function: RowFunction, together: RowFunction | None = None) -> None:
        """`together`: the same for rows of k tasks, as far as it can do that."""
        self._function = function
        self._together = together
        self._ways: dict[tuple[torch.Size, ...], tuple[RowFunction, int]] = {}

    def __deepcopy__(self, memo: object) -> Batched:
        raise TypeError("a batched function is made for one cell; make another")

    def __call__(self, columns: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs (k, *shape) of arguments (k, *shape)."""
        count = len(columns[0])
        if count == 1:
            return [out.unsqueeze(0) for out in self._function([c[0] for c in columns])]
        formats = tuple([column.shape[1:] for column in columns])
        way, most = self._ways.get(formats, (None, 0))
        if way is None or count > most:
            way = self._found(columns)
            if len(self._ways) >= WAYS_MAX:
                self._ways.clear()
            self._ways[formats] = way, 8 * count
        return way(columns)

    def _found(self, columns: Sequence[Tensor]) -> RowFunction:
        with ValueWatch() as watch:
            self._function([column[0] for column in columns])
        if watch.asked:
            return self._one_by_one
        others = [_others(column) for column in columns]
        for way in (self._joined, self._in_front, self._together):
            if way is not None and self._agrees(way, columns) and self._agrees(way, others):
                return way
        if not self._agrees(self._mapped, columns) or not self._agrees(self._mapped, others):
            return self._one_by_one
        return min(self._mapped, self._one_by_one, key=lambda way: _seconds(way, columns))

    def _agrees(self, way: RowFunction, columns: Sequence[Tensor]) -> bool:
        """Whether rows of a batch agree with the tasks alone."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                together = way(columns)
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError, Warning):
            return False  # NotImplementedError is a RuntimeError
        count = len(columns[0])
        for row in sorted({0, count // 2, count - 1}):
            alone = self._function([column[row] for column in columns])
            if len(together) != len(alone):
                return False
            for batch, one in zip(together, alone, strict=True):
                fits = batch.shape == (count, *one.shape) and batch.dtype == one.dtype
                if not fits or not _is_close(batch[row], one):
                    return False
        return True

    def _joined(self, columns: Sequence[Tensor]) -> list[Tensor]:
        sizes = {column.shape[1] if column.dim() > 1 else 0 for column in columns}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError("no common first axis")
        outputs = self._function([column.flatten(0, 1) for column in columns])
        count = len(columns[0])
        return [output.reshape(count, -1, *output.shape[1:]) for output in outputs]

    def _in_front(self, columns: Sequence[Tensor]) -> list[Tensor]:
        return self._function(columns)

    def _mapped(self, columns: Sequence[Tensor]) -> list[Tensor]:
        def one(*row: Tensor) -> tuple[Tensor, ...]:
            return tuple(self._function(row))

        return list(torch.vmap(one)(*columns))

    def _one_by_one(self, columns: Sequence[Tensor]) -> list[Tensor]:
        rows = zip(*(column.unbind(0) for column in columns), strict=True)
        outputs = [self._function(row) for row in rows]
        return [torch.stack(column) for column in zip(*outputs, strict=True)]


def _others(column: Tensor) -> Tensor:
    """Return rows like the given ones, of which no two are equal where numbers allow it."""
    turned = column.flip(0)
    if not column.is_floating_point():
        return turned
    generator = torch.Generator().manual_seed(len(column))
    factor = 0.5 + torch.rand(column.shape, generator=generator, dtype=torch.float32)
    return turned * factor.to(column)


def _is_close(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point():
        return bool(torch.equal(one, other))
    relative, absolute = _TOLERANCES.get(one.dtype, _COARSE)
    return torch.allclose(one, other, rtol=relative, atol=absolute, equal_nan=True)


def _seconds(way: RowFunction, columns: Sequence[Tensor]) -> float:
    begin = time.perf_counter()
    way(columns)
    return time.perf_counter() - begin


class Variant(nn.Module):
    """A cell with the glue around it; owns no weights."""

    def __init__(self, cell: CapturedCell, program: Program) -> None:
        super().__init__()
        self.training = False
        self._owner = [cell]  # not as a submodule: the weights are the cell's
        self._program = program
        self._glue = Batched(self._glue_row, self._glue_rows)
        self._call = Batched(self._called)

    def _glue_row(self, slots: Sequence[Tensor]) -> list[Tensor]:
        return self._program.run(slots, self._owner[0].weights)

    def _glue_rows(self, slots: Sequence[Tensor]) -> list[Tensor]:
        return self._program.run(slots, self._owner[0].weights, together=True)

    def _called(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return tensors_in(self._program.called(self._owner[0].call, tensors))

    def forward(self, *columns: Tensor) -> Tensor:
        """Return the outputs of k tasks, packed: (k, *shape)."""
        program, made = self._program, self._program.slots(columns)
        if program.operations or program.call is None:
            made = self._glue(made)
        else:
            made = program.run(made, {})  # it only says which is which
        return packed(made if program.call is None else self._call(made or columns[:1]))


class CapturedCell(VariedCell):
    """A submodule of a captured model as a cell: (k, *shape) arguments → (k, *shape) outputs.

    Several outputs are packed as one. Tasks that do more than call the module say so by their
    variant, a program as text.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = False  # as the module must be
        self._prepare()

    def _prepare(self) -> None:
        self._variants: dict[str, Variant] = {}
        self._batched = Batched(self._row)

    def __getstate__(self) -> dict[str, Any]:
        kept = dict(self.__dict__)
        for made_again in ("_variants", "_batched"):
            kept.pop(made_again, None)
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._prepare()

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Weights that programs may name."""
        return {}

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module itself, as its class says: never a capture of it."""
        return type(self.module).forward(self.module, *args, **kwargs)

    def _row(self, slots: Sequence[Tensor]) -> list[Tensor]:
        return tensors_in(self.call(*slots))

    def variant(self, text: str) -> nn.Module:
        """Return what runs tasks of a variant; of the empty one, the cell itself."""
        if not text:
            return self
        found = self._variants.get(text)
        if found is None:
            if len(self._variants) >= VARIANTS_MAX:
                self._variants.clear()
            found = self._variants[text] = Variant(self, parse_program(text))
        return found

    def forward(self, *columns: Tensor) -> Tensor:
        """Return the outputs of k tasks, packed: (k, *shape)."""
        return packed(self._batched(columns))


class GlueCell(CapturedCell):
    """The cell of tasks that only compute between cells, with all weights that are in no cell."""

    is_optional = True

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__(nn.Identity())
        self._names = {name: name.replace(".", "/") for name in weights}
        for name, tensor in weights.items():
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(self._names[name], tensor)
            else:
                self.register_buffer(self._names[name], tensor)

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Parameters and buffers by their name in the model."""
        return {name: getattr(self, own) for name, own in self._names.items()}


def packed(outputs: Sequence[Tensor]) -> Tensor:
    """Return outputs (k, *shape) as one tensor."""
    if len(outputs) == 1:
        return outputs[0]
    return Packing.of([(tuple(o.shape[1:]), o.dtype) for o in outputs]).pack(outputs)
