"""`Service`: one model that answers requests from many threads, with limits, figures and an end."""

from __future__ import annotations

import asyncio
import math
import signal
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from types import FrameType, TracebackType
from typing import Any

from dynpartition.closing import Closing
from dynpartition.errors import InputError, RequestTimeout, ServingError
from dynpartition.serving.engines import Engine
from dynpartition.serving.metrics import Snapshot, prometheus_text
from dynpartition.serving.requests import Request, RequestQueue

QUEUE_MAX = 256
"""Requests that may wait by default."""


class Service(Closing):
    """Answers requests for one model. Made by `Runtime.serve`; any thread may ask.

    A thread of its own computes; requests wait in a queue of at most `queue_max`, first come, first
    served. What a request raises is raised to who asked, and to nobody else. Close it, or use it in
    a `with` block: what has been asked is answered first, unless the block ends by an exception;
    then what is being computed is still answered, and what waits gets ServiceClosed.
    """

    def __init__(self, engine: Engine, queue_max: int, timeout_s: float) -> None:
        if queue_max < 1:
            raise InputError(f"queue_max is {queue_max}; give how many requests may wait")
        self._engine = engine
        self._metrics = engine.metrics
        self._timeout_s = _checked(timeout_s)
        self._queue = RequestQueue(queue_max, engine.metrics)
        name = f"dynpartition service of {engine.model.name}"
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def __call__(self, sample: Any, *, timeout_s: float | None = None) -> Any:
        """Return the model's answer, waiting for room and for the answer.

        Raises RequestTimeout after `timeout_s` seconds (default: the service's), ServiceClosed, and
        what the model raises.
        """
        deadline_s = self._deadline_s(timeout_s)
        request = Request(sample, deadline_s)
        self._queue.put_waiting(request)
        left_s = deadline_s - time.monotonic()
        try:
            return request.future.result(None if left_s == math.inf else max(0.0, left_s))
        except TimeoutError as error:
            if request.future.done() and not request.future.cancelled():
                raise  # the request's own
            request.give_up()
            raise RequestTimeout("the request was not answered before its deadline") from error

    def submit(
        self, sample: Any, *, timeout_s: float | None = None, wait: bool = False
    ) -> Future[Any]:
        """Ask for an answer and return at once; cancelling it works until it has begun.

        With a full queue raises ServiceFull or, with `wait`, waits for room. A request that has
        not begun by its deadline fails with RequestTimeout; what has begun is answered.
        """
        request = Request(sample, self._deadline_s(timeout_s))
        if wait:
            self._queue.put_waiting(request)
        else:
            self._queue.put(request)
        return request.future

    async def ask(self, sample: Any, *, timeout_s: float | None = None) -> Any:
        """Return the model's answer without blocking the event loop; raises as a call does."""
        deadline_s = self._deadline_s(timeout_s)
        request = Request(sample, deadline_s)
        self._queue.put_in_turn(request)
        left_s = None if deadline_s == math.inf else max(0.0, deadline_s - time.monotonic())
        try:
            async with asyncio.timeout(left_s) as limit:
                return await asyncio.wrap_future(request.future)
        except TimeoutError as error:
            if not limit.expired():
                raise  # the request's own
            request.give_up()
            raise RequestTimeout("the request was not answered before its deadline") from error

    def warm_up(self, samples: Iterable[Any]) -> None:
        """Answer samples that metrics do not count: devices start, shapes and costs are learnt.

        Raises what the model raises.
        """
        requests = [Request(sample, counts=False) for sample in samples]
        for request in requests:
            self._queue.put_waiting(request)
        for request in requests:
            request.future.result()

    def metrics(self) -> Snapshot:
        """Return what has been counted so far."""
        return self._metrics.snapshot(len(self._queue))

    def prometheus(self) -> str:
        """Return it in the text format of Prometheus, for a page that is scraped.

        Raises ServingError without the package `prometheus_client`.
        """
        return prometheus_text(self.metrics(), self._engine.model.name)

    def run_until_signal(self) -> None:
        """Serve until Ctrl-C or SIGTERM, then answer what waits and close; main thread only.

        A second signal gives up what waits.
        """
        if threading.current_thread() is not threading.main_thread():
            raise ServingError("signals reach the main thread only; call run_until_signal there")
        came = threading.Event()

        def stop(number: int, frame: FrameType | None) -> None:
            self._queue.close(drain=not came.is_set())
            came.set()

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while self._thread.is_alive():  # in short waits, so that signals get through
                self._thread.join(0.1)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def close(self, *, drain: bool = True) -> None:
        """Answer what waits, or with `drain=False` turn it away; then end. Idempotent."""
        self._queue.close(drain=drain)
        self._thread.join()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(drain=error is None)

    def _deadline_s(self, timeout_s: float | None) -> float:
        seconds = self._timeout_s if timeout_s is None else _checked(timeout_s)
        return time.monotonic() + seconds

    def _work(self) -> None:
        """Answer requests until the queue is closed and empty."""
        engine, queue = self._engine, self._queue
        try:
            while (first := queue.take(wait=True)) is not None:
                engine.serve(first, lambda: queue.take(wait=False))
        finally:
            queue.close(drain=False)
            engine.close()


def _checked(seconds: float) -> float:
    if not seconds > 0:  # NaN too
        raise InputError(f"timeout_s is {seconds}; give seconds above 0, or math.inf")
    return seconds
