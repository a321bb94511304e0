"""What caller and workers say to each other: msgpack structs, never pickle."""

from __future__ import annotations

from multiprocessing.connection import Connection

import msgspec
import numpy as np


class Argument(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What the k tasks of a call read as one argument of their cell: rows of an arena."""

    shape: tuple[int, ...]
    dtype: str
    row: int
    """Row of the first task's."""
    rows: bytes
    """int64 (k,); empty where the others follow the first."""


class Call(msgspec.Struct, array_like=True, gc=False):
    """Tasks of one launch with equal shapes: one call of the cell."""

    arguments: list[Argument]
    shape: tuple[int, ...]
    """Of each output."""
    row: int
    """Row of the first output; the others follow it."""
    size: int
    """Number of tasks, k."""


class RunOrder(msgspec.Struct, array_like=True, gc=False):
    """What RUN does for one launch."""

    launch: int
    cell: str
    calls: list[Call]


class CopyOrder(msgspec.Struct, array_like=True, gc=False):
    """What COPY does for one transfer."""

    copy: int
    src: int
    dst: int
    spans: list[tuple[int, int, int]]
    """(source offset, destination offset, bytes)."""


class Segment(msgspec.Struct, tag=True):
    """One device's share of a plan, or of what was appended to it."""

    epoch: int
    code: bytes
    """int64 (n, 3): opcode, operand, the launch that the instruction belongs to."""
    runs: list[RunOrder]
    copies: list[CopyOrder]

    def instructions(self) -> list[list[int]]:
        """Return `code` row by row."""
        rows: list[list[int]] = np.frombuffer(self.code, dtype=np.int64).reshape(-1, 3).tolist()
        return rows


class Finish(msgspec.Struct, tag=True):
    """Asks for the report of a session."""

    epoch: int
    drain: bool
    """Finish the program before; else drop the rest of it."""


class Setup(msgspec.Struct, tag=True):
    """Tells a new worker what it is."""

    model: tuple[str, str]
    """Module and name of the model's class."""
    import_path: list[str]
    """Where the caller finds modules."""
    config: dict[str, int]
    weights: tuple[int, int]
    """(file descriptor, bytes) of the weights in the safetensors format."""
    worker: int
    device: int
    names: list[str]
    speed: float
    core: int | None
    """Processor core to stay on; None: anywhere."""
    polite: bool
    """Whether to wait by sleeping, because devices share cores."""
    control_fd: int
    arenas: list[tuple[int, int] | None]
    """Per device (file descriptor, bytes); None for CUDA devices."""
    sample_run_delay: bool


class Ready(msgspec.Struct, tag=True):
    """The worker has built the model."""


class LaunchStamp(msgspec.Struct, array_like=True, gc=False):
    """When one launch ran, on the monotonic clock."""

    launch: int
    start_ns: int
    end_ns: int
    repeats: int
    run_delay_ns: int


class CopyStamp(msgspec.Struct, array_like=True, gc=False):
    """When one transfer took place, on the monotonic clock."""

    copy: int
    start_ns: int
    end_ns: int


class Report(msgspec.Struct, tag=True):
    """What a device did in a session."""

    epoch: int
    launches: list[LaunchStamp]
    copies: list[CopyStamp]


class Failure(msgspec.Struct, tag=True):
    """Why a worker stops."""

    text: str
    traceback: str


Message = Segment | Finish | Setup | Ready | Report | Failure
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class Channel:
    """One end of a socket between the caller and a worker."""

    def __init__(self, fd: int) -> None:
        self._connection: Connection[bytes, bytes] = Connection(fd)

    def send(self, message: Message) -> None:
        """Send one message; OSError when the other end is gone."""
        self._connection.send_bytes(_encoder.encode(message))

    def receive(self) -> Message:
        """Wait for one message; EOFError or OSError when the other end is gone."""
        return _decoder.decode(self._connection.recv_bytes())

    def poll(self, timeout_s: float) -> bool:
        """Return whether a message or the end of the stream is there, after waiting for it."""
        return self._connection.poll(timeout_s)

    def close(self) -> None:
        """Close this end."""
        self._connection.close()
