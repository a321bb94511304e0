"""Starting, watching and ending one worker process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import IO

from dynpartition.errors import DeviceError
from dynpartition.hardware.messages import NAP_S, Channel, Failure, Ready
from dynpartition.hardware.transport import WorkerOnSocket

WORKER, RELAY = "dynpartition.hardware.worker", "dynpartition.hardware.relay"
GPU_WORKER = "dynpartition.hardware.gpu_worker"
_TAIL_BYTES = 4000
_END_TIMEOUT_S = 1.0


@cache
def _lasting_thread(caller: int) -> ThreadPoolExecutor:
    """Return the one thread of this process that starts workers, and lasts as long as it does.

    Linux kills workers when the thread ends that started them (see `worker.end_with_caller`).
    """
    return ThreadPoolExecutor(1, thread_name_prefix="dynpartition-starter")


def starting_thread() -> int:
    """Return the number of the thread that starts workers: they begin with its settings."""
    return _lasting_thread(os.getpid()).submit(threading.get_native_id).result()


class WorkerProcess(WorkerOnSocket):
    """One worker: the process, our end of its socket, and what it writes to stderr."""

    def __init__(self, name: str, shared_fds: Sequence[int], module: str = WORKER) -> None:
        """`module`: what the process runs."""
        self.name = name
        self._module = module
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        ours, theirs = socket.socketpair()
        lifeline_fd, self._lifeline = os.pipe()
        fds = (theirs.fileno(), lifeline_fd)
        self.process = self._spawn(fds, shared_fds)
        theirs.close()
        os.close(lifeline_fd)
        self.channel = Channel(ours.detach(), NAP_S)

    def _spawn(self, fds: tuple[int, int], shared_fds: Sequence[int]) -> subprocess.Popen[bytes]:
        # -P: whatever lies in the working directory is not importable by accident.
        module = [sys.executable, "-P", "-m", self._module]

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [*module, *map(str, fds)],
                pass_fds=(*fds, *shared_fds),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

        return _lasting_thread(os.getpid()).submit(start).result()

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self.process.poll() is not None

    def ending(self) -> str:
        """Return how the process ended, with the last line it wrote; ends it if need be."""
        self._wait(time.monotonic() + _END_TIMEOUT_S)
        status = self.process.returncode
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        lines = self.last_words().splitlines()
        return f"{how}: {lines[-1]}" if lines else how

    def last_words(self) -> str:
        """Return the end of what the process wrote to stdout and stderr."""
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _TAIL_BYTES))
        return self._log.read().decode(errors="replace").strip()

    def _wait(self, deadline_s: float) -> None:
        try:
            self.process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def hang_up(self) -> None:
        """Tell the process to end."""
        self.channel.close()
        os.close(self._lifeline)

    def bury(self, deadline_s: float) -> None:
        """Wait for the process until `deadline_s`, then kill it."""
        self._wait(deadline_s)
        self._log.close()

    def await_ready(self, deadline_s: float) -> None:
        """Wait until the worker has built the model; DeviceError when it does not come to that."""
        while not self.channel.poll(0.05):
            if time.monotonic() > deadline_s:
                raise DeviceError(f"the worker of {self.name} did not start in time; try again")
        try:
            message = self.channel.receive()
        except (EOFError, OSError):
            raise self._no_start() from None
        if isinstance(message, Failure):
            raise DeviceError(message.text)
        assert isinstance(message, Ready)

    def _no_start(self) -> DeviceError:
        error = DeviceError(
            f"the worker of {self.name} did not start ({self.ending()});"
            " try again, or use one CPU device"
        )
        error.add_note(self.last_words())
        return error
