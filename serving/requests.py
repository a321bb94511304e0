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
    future: Future[Any] = field(default_factory=Future)

    def has_begun(self) -> bool:
        """Note that it is computed from now on, unless nobody waits for it any more."""
        self.begun_s = time.monotonic()
        return self.future.set_running_or_notify_cancel()


class RequestQueue:
    """At most `size` requests, first come, first served."""

    def __init__(self, size: int, metrics: Metrics) -> None:
        self._size = size
        self._metrics = metrics
        self._waiting: deque[Request] = deque()
        # A signal handler closes the queue, in a thread that may be in here.
        self._changed = threading.Condition(threading.RLock())
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, request: Request, *, wait: bool) -> None:
        """Append a request; where there is no room, wait for some until its deadline.

        Raises ServiceFull instead of waiting unless `wait`, RequestTimeout, or ServiceClosed.
        """
        with self._changed:
            while not self._is_closed and len(self._waiting) >= self._size:
                left_s = request.deadline_s - time.monotonic()
                if not wait:
                    self._metrics.count("refused")
                    raise ServiceFull(
                        f"{self._size} requests wait already; send fewer at a time, wait for room,"
                        " or give a longer queue"
                    )
                if left_s <= 0:
                    self._metrics.count("timed_out")
                    raise RequestTimeout("there was no room in the queue before the deadline")
                self._changed.wait(None if left_s == math.inf else left_s)
            if self._is_closed:
                raise ServiceClosed("the service is closed; make a new one")
            self._waiting.append(request)
            self._changed.notify_all()
        if request.counts:
            self._metrics.count("received")

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
                self._changed.notify_all()
            if not request.has_begun():
                self._metrics.count("cancelled")
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
            left = [] if drain else list(self._waiting)
            if left:
                self._waiting.clear()
            self._changed.notify_all()
        for request in left:
            if request.has_begun():
                request.future.set_exception(
                    ServiceClosed("the service was closed before this request had its turn")
                )
