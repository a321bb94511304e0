"""The error tree: every error that this package raises on purpose is a DynPartitionError.

A message says what was wrong, the value, the place, and the remedy. The command line prints
the message on one line and exits with status 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class DynPartitionError(Exception):
    """Raised when something the user gave cannot be used; the parent of all errors here."""


class FileFormatError(DynPartitionError):
    """Raised when a file is not the format it should be; names the file and the JSON path."""


class GraphError(DynPartitionError):
    """Raised when tasks do not form a valid graph (cycle, unknown input, duplicate id)."""


class ProfileError(DynPartitionError):
    """Raised when a profile is contradictory or lacks a cost that is needed."""


class PlanError(DynPartitionError):
    """Raised when a plan cannot run: a task missing or twice, a wrong order, an absent link."""


class ScheduleError(DynPartitionError):
    """Raised when a trace breaks the execution semantics; lists what the validator found."""


class SchedulerError(DynPartitionError):
    """Raised when a scheduler does not exist or cannot serve the graph or profile."""


class DeviceError(DynPartitionError):
    """Raised when a device specification is malformed or the device is not there."""


class DeviceLost(DynPartitionError):
    """Raised when a device stops while work is on it."""


class OutOfDeviceMemory(DynPartitionError):
    """Raised when a device cannot hold what a launch needs; names the launch and the bytes."""


class InputError(DynPartitionError):
    """Raised when a model input (a parse tree, an expression, tokens) is malformed."""


class ModelError(DynPartitionError):
    """Raised when a model does not exist or its configuration is not usable."""


class CheckpointError(DynPartitionError):
    """Raised when a checkpoint is missing, damaged, or of another policy."""


class TrainingError(DynPartitionError):
    """Raised when a training configuration or its workloads cannot be used."""


class CalibrationError(DynPartitionError):
    """Raised when measurements do not allow a profile."""


class RunFolderError(DynPartitionError):
    """Raised when a run folder lacks a file or cannot be written."""


class OutputError(DynPartitionError):
    """Raised when a result cannot be written; names the file and the remedy."""


class UsageError(DynPartitionError):
    """Raised when a command line is not understood."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a remedy that lists the names closest to `name`, or else at most twelve."""
    names = sorted(known)
    close = get_close_matches(name, names, n=3)
    if close:
        return f"did you mean {' or '.join(repr(other) for other in close)}?"
    shown = names if len(names) <= 12 else [*names[:11], f"… ({len(names)} in all)"]
    return f"known: {', '.join(shown)}" if names else "none are known"


class ServingError(DynPartitionError):
    """Raised when a service does not take a request, or has not answered it in time."""


class ServiceFull(ServingError):
    """Raised when as many requests wait as may."""


class ServiceClosed(ServingError):
    """Raised when a request comes to a service that is closed, or was left over when it closed."""


class RequestTimeout(ServingError, TimeoutError):
    """Raised when a request was not answered before its deadline."""
