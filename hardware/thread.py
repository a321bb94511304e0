"""A worker that is a thread of the calling process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

from dynpartition.errors import DeviceError, DynPartitionError
from dynpartition.hardware.messages import NAP_S, Channel, Ready
from dynpartition.hardware.server import Server
from dynpartition.hardware.transport import WorkerOnSocket

_GRACE_S = 1.0
"""No thread can be ended by force; one in the middle of a launch gets this long to notice."""


class WorkerThread(WorkerOnSocket):
    """One worker: the thread, and our end of its socket.

    A cell that never returns keeps its thread for as long as the process lives. The backend does
    without that device then.
    """

    def __init__(self, name: str, make_server: Callable[[Channel], Server]) -> None:
        """`make_server` is called in the thread; it sends Ready when the worker can begin."""
        self.name = name
        ours, theirs = socket.socketpair()
        self.channel = Channel(ours.detach(), NAP_S)
        self._server: Server | None = None
        self._why = "its thread has ended"
        own = Channel(theirs.detach())
        self._thread = threading.Thread(
            target=self._main, args=(own, make_server), name=f"dynpartition {name}", daemon=True
        )
        self._thread.start()

    def _main(self, channel: Channel, make_server: Callable[[Channel], Server]) -> None:
        try:
            self._server = make_server(channel)
            self._server.serve()
        except (EOFError, OSError):
            pass  # the caller has closed the backend
        except DynPartitionError as error:
            self._why = str(error)
        finally:
            channel.close()

    def await_ready(self) -> None:
        """Wait until the worker can begin; DeviceError when it does not come to that."""
        try:
            message = self.channel.receive()
        except (EOFError, OSError):
            raise DeviceError(
                f"the worker of {self.name} did not start ({self.ending()}); use one CPU device"
            ) from None
        assert isinstance(message, Ready)

    @property
    def has_ended(self) -> bool:
        """Whether the thread is gone."""
        return not self._thread.is_alive()

    def ending(self) -> str:
        """Return why the thread ended."""
        self._thread.join(_GRACE_S)
        return self._why

    def hang_up(self) -> None:
        """Tell the thread to end."""
        if self._server is not None:
            self._server.is_dismissed = True
        self.channel.close()

    def bury(self, deadline_s: float) -> None:
        """Wait for the thread until `deadline_s`, and for what it has begun."""
        self._thread.join(max(_GRACE_S, deadline_s - time.monotonic()))
        if self.has_ended and self._server is not None:
            self._server.control.bell.dismiss(self._server.patience)
