"""Parameters of cells as bytes in the safetensors format; never a pickle."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from dynpartition.errors import CheckpointError


def parameter_bytes(cell: nn.Module) -> int:
    """Return how much memory the parameters and buffers of `cell` take."""
    return sum(tensor.nbytes for tensor in cell.state_dict().values())


def dump_weights(cells: Mapping[str, nn.Module]) -> bytes:
    """Return the parameters of all cells, keyed `cell/parameter`."""
    own: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in _tensors(cells).items():
        # The format refuses shared memory, and a weight may be shared by several cells.
        memory = tensor.untyped_storage().data_ptr()
        own[key] = tensor.cpu().clone() if memory in seen else tensor.cpu()
        seen.add(memory)
    data: bytes = save(own)
    return data


def fill_weights(cells: Mapping[str, nn.Module], data: bytes) -> None:
    """Copy the parameters in `data` into the cells, all of them or none.

    Raises CheckpointError when `data` is damaged or holds other names, shapes or types.
    """
    given, own = _parse(data), _tensors(cells)
    _check_names(given, own)
    for key, tensor in own.items():
        _check_tensor(key, given[key], tensor)
    for key, tensor in own.items():
        tensor.copy_(given[key])


def _tensors(cells: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    # Entries of a state dict share memory with the parameters, so they can be filled in place.
    states = {name: cell.state_dict() for name, cell in cells.items()}
    return {f"{name}/{key}": t for name, state in states.items() for key, t in state.items()}


def _parse(data: bytes) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load(data)
    except SafetensorError as error:
        raise CheckpointError(f"the weights are damaged ({error}); use another copy") from error
    return tensors


def _check_names(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    missing, extra = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    if missing or extra:
        first = f"lack {missing[0]!r}" if missing else f"hold {extra[0]!r} in excess"
        raise CheckpointError(f"the weights {first}; they belong to another model")


def _check_tensor(key: str, given: Tensor, own: Tensor) -> None:
    if given.shape != own.shape or given.dtype != own.dtype:
        raise CheckpointError(
            f"weight {key!r} is {given.dtype} {tuple(given.shape)}, but the model has"
            f" {own.dtype} {tuple(own.shape)}; build the model with the configuration of the file"
        )
    if not bool(torch.isfinite(given).all()):
        raise CheckpointError(f"weight {key!r} holds NaN or infinity; use another copy")
