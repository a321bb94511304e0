"""How devices stop whose work others may take over."""

from __future__ import annotations

import torch

from dynpartition.errors import DeviceLost


class Loss(DeviceLost):
    """Raised when devices cannot go on, though the run can."""


class WorkerLost(Loss):
    """Raised when a worker is gone, or has to be given up."""

    def __init__(self, text: str, worker: int) -> None:
        super().__init__(text)
        self.worker = worker


class GpusLost(Loss):
    """Raised when CUDA has failed: for this process it does not work again, on no GPU."""

    def __init__(self, error: RuntimeError) -> None:
        what = str(error).strip().partition("\n")[0]
        super().__init__(f"the CUDA devices were lost: {what}; restart the process to use them")


class OutOfMemoryOn(Loss):
    """Raised when a device has no memory for a launch, not even task by task.

    What it holds is still there.
    """

    def __init__(self, text: str, place: str) -> None:
        super().__init__(text)
        self.place = place
        """Name of the device."""


def no_memory(place: str, error: Exception) -> OutOfMemoryOn:
    """Return what to say of a device that has no memory for weights or indices."""
    what = " ".join(str(error).split())
    return OutOfMemoryOn(f"{place} has no memory: {what}; place less on it", place)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a cell has raised `error` because there was no memory."""
    # PyTorch's allocator for CPUs has no error of its own.
    words = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return words or isinstance(error, MemoryError | torch.OutOfMemoryError)


def is_of_cuda(error: Exception) -> bool:
    """Return whether `error` says that CUDA has failed, perhaps long before."""
    words = isinstance(error, RuntimeError) and str(error).startswith("CUDA error")
    return words or isinstance(error, torch.AcceleratorError)
