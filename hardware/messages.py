"""What caller and workers say to each other: msgpack structs, never pickle."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable

import msgspec
import numpy as np

from dynpartition.hardware.pacing import Paces
from dynpartition.program import COPY, RECORD, RUN, WAIT

LOAD = 1 + max(WAIT, RUN, RECORD, COPY)
"""Opcode in a segment, beside those of programs: evict and load weights for the launch."""


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
    dtype: str
    row: int
    """Row of the first output; the others follow it."""
    size: int
    """Number of tasks, k."""
    variant: str = ""
    """Of the cell."""


class RunOrder(msgspec.Struct, array_like=True, gc=False):
    """What RUN does for one launch."""

    launch: int
    cell: str
    calls: list[Call]


class LoadOrder(msgspec.Struct, array_like=True, gc=False):
    """What LOAD does before one launch: which weights go, and which come."""

    launch: int
    evict: list[str]
    """Cells, in this order, before anything comes."""
    cell: str
    """Whose weights come; empty: room is made for outputs only."""
    arena_bytes: int
    """Given out of the arena by then: what lies beside the weights."""


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
    loads: list[LoadOrder] = []
    serial: int = 0
    """How many messages its worker has been sent, with this one."""
    goes_on: bool = False
    """Whether the session goes on after a loss: what lies on the device is still needed."""
    known_ns: int = 0
    """When this became known, in virtual time; 0: from the start, or on the wall clock."""
    number: int = 0
    """Which plan this is of those that devices keep; 0: of none."""
    is_kept: bool = False
    """The device has it already, under this number: nothing else is in here."""

    def instructions(self) -> list[list[int]]:
        """Return `code` row by row."""
        rows: list[list[int]] = np.frombuffer(self.code, dtype=np.int64).reshape(-1, 3).tolist()
        return rows


class Finish(msgspec.Struct, tag=True):
    """Asks for the report of a session."""

    epoch: int
    drain: bool
    """Finish the program before; else drop the rest of it."""
    serial: int = 0
    """As in segments."""


class Stock(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a device that does not simply hold all weights may hold."""

    capacity_bytes: int
    """For weights, outputs and inputs together."""
    resident: list[str]
    """Cells whose weights are there when a session begins."""


class Setup(msgspec.Struct, tag=True):
    """Tells a new worker what it is."""

    model: tuple[str, str]
    """Module and name of the model's class."""
    import_path: list[str]
    """Where the caller finds modules."""
    config: dict[str, int]
    master: tuple[int, int]
    """(file descriptor, bytes) of the weights of all cells."""
    layout: str
    """How they lie there."""
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
    stock: Stock | None = None
    """None: the device computes with the weights where they are."""
    virtual: bool = False
    """Whether stamps are in virtual time."""
    source: str = ""
    """The user's function that builds the model with `config`; empty: the class does."""
    arena_bytes: list[int] = []
    """Per device, for another host that has to make the arenas of its own."""
    backend: str = ""
    """Which backend this is of all that a host may serve."""
    beyond: list[int] = []
    """Devices on other hosts than this worker."""
    paces: Paces = msgspec.field(default_factory=dict)
    """Devices to which its transfers are slowed."""
    host: int = 0
    paced: bool = False
    """Whether transfers of any device are slowed."""
    bells: list[tuple[int, int]] = []
    """What wakes those who pass on to other hosts; a relay has its own alone."""
    answer_timeout_s: float = 60.0
    """How long another host may take to answer."""
    connected: list[int] = []
    """GPUs of rank 0 that this GPU of another host is to be connected with."""
    meeting: str = ""
    """Where they meet."""


class Ready(msgspec.Struct, tag=True):
    """The worker has built the model."""


class LaunchStamp(msgspec.Struct, array_like=True, gc=False):
    """When one launch ran, on the monotonic clock."""

    launch: int
    start_ns: int
    end_ns: int
    repeats: int
    run_delay_ns: int
    dispatch_ns: int = 0
    """How long the caller's thread was busy with starting it; 0 where the device is its own."""


class CopyStamp(msgspec.Struct, array_like=True, gc=False):
    """When one transfer took place, on the monotonic clock."""

    copy: int
    start_ns: int
    end_ns: int
    dispatch_ns: int = 0
    """How long the caller's thread was busy with starting it; 0 where a CPU device copies."""


class LoadStamp(msgspec.Struct, array_like=True, gc=False):
    """When the weights of one cell came to a device, on the monotonic clock."""

    device: int
    cell: str
    start_ns: int
    end_ns: int


class Report(msgspec.Struct, tag=True):
    """What a device did in a session."""

    epoch: int
    launches: list[LaunchStamp]
    copies: list[CopyStamp]
    loads: list[LoadStamp] = []
    held: list[str] = []
    """Cells whose weights are on the device, where they come and go."""
    run_delay_ns: int = 0
    """How long a CPU device's thread waited for a core from its first segment to here."""
    arrived: list[int] = []
    """Transfers that have come from devices of the same host, where that is not the caller's."""


class Failure(msgspec.Struct, tag=True):
    """Why a worker stops."""

    text: str
    traceback: str
    others_may: bool = False
    """Whether another device may succeed: this one had no memory, or is lost."""


Message = Segment | Finish | Setup | Ready | Report | Failure
Order = Segment | Finish
"""What a worker is sent again and again."""
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
_LENGTH = struct.Struct("=Q")


def encode(message: Message) -> bytes:
    """Return a message as msgpack."""
    return _encoder.encode(message)


def decode(data: bytes | memoryview) -> Message:
    """Return the message that `encode` made this of."""
    return _decoder.decode(data)


NAP_S = 0.02
"""How long the caller waits for one worker in the middle of a message before it looks around."""

Pause = Callable[[], None]
"""Called now and then while the other end makes one wait; may raise."""


def wait_on() -> None:
    """Wait for ever."""


class Channel:
    """One end of a socket between the caller and a worker."""

    def __init__(self, fd: int, nap_s: float = 0.0) -> None:
        """`nap_s`: how long to wait for the other end between two pauses; 0: no pauses."""
        self._socket = socket.socket(fileno=fd)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        if nap_s:
            nap = struct.pack("ll", 0, int(nap_s * 1e6))  # a timeval
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, nap)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, nap)

    def send(self, message: Message, pause: Pause = wait_on) -> None:
        """Send one message; OSError when the other end is gone."""
        data = bytearray(_LENGTH.size)
        _encoder.encode_into(message, data, _LENGTH.size)
        _LENGTH.pack_into(data, 0, len(data) - _LENGTH.size)
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                pause()

    def receive(self, pause: Pause = wait_on) -> Message:
        """Wait for one message; EOFError or OSError when the other end is gone."""
        (size,) = _LENGTH.unpack(self._read(_LENGTH.size, pause))
        return _decoder.decode(self._read(size, pause))

    def _read(self, size: int, pause: Pause) -> bytearray:
        data = bytearray(size)
        rest = memoryview(data)
        while rest:
            try:
                count = self._socket.recv_into(rest)
            except BlockingIOError:
                pause()
                continue
            if not count:
                raise EOFError
            rest = rest[count:]
        return data

    def fileno(self) -> int:
        """Return the file descriptor, to wait for messages and for others at once."""
        return self._socket.fileno()

    def poll(self, timeout_s: float) -> bool:
        """Return whether a message or the end of the stream is there, after waiting for it."""
        return bool(self._poll.poll(1000 * timeout_s))

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


class Inbox:
    """A worker's messages in the order in which they were sent, each once."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.count = 0
        """How many have been received."""
        self._early: dict[int, Order] = {}

    def receive(self) -> Order:
        """Wait for the next message; EOFError or OSError when the other end is gone."""
        while self.count + 1 not in self._early:
            message = self.channel.receive()
            assert isinstance(message, Segment | Finish), f"no worker expects {message}"
            if message.serial > self.count:
                self._early[message.serial] = message
        self.count += 1
        return self._early.pop(self.count)
