"""Requests that wait for their turn: bounded, with deadlines, from any thread."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from dynpartition.errors import RequestTimeout, ServiceClosed, ServiceFull
from dynpartition.serving.metrics import Metrics


@dataclass(eq=False, slots=True)
class Request:
    """One sample, and who waits for the answer."""

    sample: Any
    deadline_s: float = math.inf
    """By the monotonic clock."""
    counts: bool = True
    """Whether metrics count it; warming up does not."""
    came_s: float = field(default_factory=time.monotonic)
    begun_s: float = 0.0
    has_room: bool = False
    """Whether it has come into the queue."""
    is_late: bool = False
    """Whether it was cancelled because of its deadline."""
    future: Future[Any] = field(default_factory=Future)

    def give_up(self) -> None:
        """Leave it out because of its deadline, unless it has begun."""
        self.is_late = True
        self.future.cancel()

    def has_begun(self) -> bool:
        """Note that it is computed from now on, unless nobody waits for it any more."""
        self.begun_s = time.monotonic()
        return self.future.set_running_or_notify_cancel()


class RequestQueue:
    """At most `size` requests, first come, first served. Who finds no room may wait outside."""

    def __init__(self, size: int, metrics: Metrics) -> None:
        self._size = size
        self._metrics = metrics
        self._waiting: deque[Request] = deque()
        self._outside: deque[Request] = deque()
        """Come in one by one, as there is room."""
        # A signal handler closes the queue, in a thread that may be in here.
        self._changed = threading.Condition(threading.RLock())
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def n_outside(self) -> int:
        """How many wait for room."""
        return len(self._outside)

    def put(self, request: Request) -> None:
        """Append a request. Raises ServiceFull where there is no room, and ServiceClosed."""
        with self._changed:
            if not self._enter(request):
                self._metrics.count("refused")
                raise ServiceFull(
                    f"{self._size} requests wait already; send fewer at a time, wait for room,"
                    " or give a longer queue"
                )

    def put_in_turn(self, request: Request) -> None:
        """Append a request as soon as there is room, and return at once. Raises ServiceClosed."""
        with self._changed:
            if not self._enter(request):
                self._outside.append(request)

    def put_waiting(self, request: Request) -> None:
        """Append a request, waiting for room until its deadline.

        Raises RequestTimeout, and ServiceClosed.
        """
        with self._changed:
            self.put_in_turn(request)
            while not request.has_room:
                self._refuse_if_closed()
                left_s = request.deadline_s - time.monotonic()
                if left_s <= 0:
                    self._outside.remove(request)
                    self._metrics.count("timed_out")
                    raise RequestTimeout("there was no room in the queue before the deadline")
                self._changed.wait(None if left_s == math.inf else left_s)

    def _enter(self, request: Request) -> bool:
        """Append a request if there is room."""
        self._refuse_if_closed()
        if len(self._waiting) >= self._size:
            return False
        self._waiting.append(request)
        request.has_room = True
        if request.counts:
            self._metrics.count("received")
        self._changed.notify_all()
        return True

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise ServiceClosed("the service is closed; make a new one")

    def take(self, *, wait: bool) -> Request | None:
        """Return the next request, which has begun now; None: there is none.

        With `wait` that happens only when the queue is closed and empty. Requests that were
        cancelled, or whose deadline has passed, are left out.
        """
        while True:
            with self._changed:
                while wait and not self._waiting and not self._is_closed:
                    self._changed.wait()
                if not self._waiting:
                    return None
                request = self._waiting.popleft()
                if self._outside:
                    self._enter(self._outside.popleft())
                self._changed.notify_all()
            if not request.has_begun():
                self._metrics.count("timed_out" if request.is_late else "cancelled")
            elif request.begun_s > request.deadline_s:
                self._metrics.count("timed_out")
                waited_s = request.begun_s - request.came_s
                request.future.set_exception(
                    RequestTimeout(f"the request waited {waited_s:.3g} s, beyond its deadline")
                )
            else:
                return request

    def close(self, *, drain: bool) -> None:
        """Take no more requests; unless `drain`, turn away those that wait. Idempotent."""
        with self._changed:
            self._is_closed = True
            left = [*self._outside] if drain else [*self._waiting, *self._outside]
            self._outside.clear()
            if not drain:
                self._waiting.clear()
            self._changed.notify_all()
        for request in left:
            if request.has_begun():
                request.future.set_exception(
                    ServiceClosed("the service was closed before this request had its turn")
                )
