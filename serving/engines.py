"""What computes the requests of a service: the calling thread, or a hardware backend."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import Any

from dynpartition.belief import Believing
from dynpartition.closing import Closing
from dynpartition.cluster import Device
from dynpartition.contract import Outcome, Scheduler, drive
from dynpartition.hardware import HardwareBackend
from dynpartition.hardware.backend import Workers
from dynpartition.models import DynamicModel, ModelInput, ModelRun, merge_inputs
from dynpartition.profile import Profile
from dynpartition.serving.loop import Loop
from dynpartition.serving.metrics import Metrics
from dynpartition.serving.paces import Paces
from dynpartition.serving.requests import Request
from dynpartition.serving.rough import rough_profile

Take = Callable[[], Request | None]
"""Returns one more request that has begun; None: there is none now."""


class Engine(Closing):
    """Computes requests, in one thread. What one request raises is told to that one alone."""

    def __init__(self, model: DynamicModel[Any], in_flight: int, metrics: Metrics) -> None:
        self.model = model
        self.in_flight = in_flight
        self.metrics = metrics

    @abstractmethod
    def serve(self, first: Request, more: Take) -> None:
        """Answer `first`, and others that come meanwhile, as many together as may be in flight."""

    def answer(self, request: Request, answer: Any) -> None:
        """Hand over an answer."""
        now_s = time.monotonic()
        if request.counts:
            self.metrics.answered(now_s - request.came_s, request.begun_s - request.came_s)
        request.future.set_result(answer)

    def fail(self, request: Request, error: BaseException) -> None:
        """Hand over what a request has raised."""
        if request.counts:
            self.metrics.count("failed")
        request.future.set_exception(error)


class LoopEngine(Engine):
    """One CPU device: requests take turns on the thread; who has ended makes room for the next."""

    def __init__(
        self, model: DynamicModel[Any], in_flight: int, metrics: Metrics, device: str
    ) -> None:
        super().__init__(model, in_flight, metrics)
        self._device = device
        self._loop = Loop(model.cells)
        self._since_ns = 0

    def serve(self, first: Request, more: Take) -> None:
        """Answer requests until there are none."""
        self._since_ns = time.perf_counter_ns()
        started: dict[int, Request] = {}
        try:
            self._run([first], started, more)
        except Exception as error:  # noqa: BLE001 - whoever asked gets it
            # One of those in flight has raised it, and nobody knows which: alone it tells.
            left = list(started.values())
            for request in left:
                self._alone(request, error if len(left) == 1 else None)
        finally:
            self.metrics.in_flight = 0
            self._note_time()

    def _note_time(self) -> None:
        """Count the time since it was last counted: under load there is no end to wait for."""
        before_ns, self._since_ns = self._since_ns, time.perf_counter_ns()
        self.metrics.computed(self._device, self._since_ns - before_ns)

    def _alone(self, request: Request, error: Exception | None) -> None:
        if error is None:
            try:
                self._run([request], {}, lambda: None)
                return
            except Exception as own:  # noqa: BLE001
                error = own
        if not request.future.done():
            self.fail(request, error)

    def _run(self, given: Iterable[Request], started: dict[int, Request], more: Take) -> None:
        """Answer requests; `started` holds those in flight, by number."""
        runs = _Runs(self, given, started, more)
        for number, answer in self._loop.run(runs, self.in_flight):
            self.answer(started.pop(number), answer)
            self.metrics.in_flight -= 1
            self._note_time()


class _Runs(Iterator[ModelRun]):
    """The runs of requests, as they come. `started` tells whose they are."""

    def __init__(
        self,
        engine: LoopEngine,
        given: Iterable[Request],
        started: dict[int, Request],
        more: Take,
    ) -> None:
        self._engine, self._given, self._started, self._more = engine, iter(given), started, more
        self._numbers = count()

    def __next__(self) -> ModelRun:
        while (request := next(self._given, None) or self._more()) is not None:
            try:
                run = self._engine.model.start(request.sample)
            except Exception as error:  # noqa: BLE001 - whoever asked gets it
                self._engine.fail(request, error)
                continue
            self._started[next(self._numbers)] = request
            self._engine.metrics.in_flight += 1
            return run
        raise StopIteration


class DevicesEngine(Engine):
    """Any devices: as many requests together as are in flight, placed by a scheduler.

    It watches how fast the devices are, and tells the scheduler. A device that is lost is made up
    for by the others, and is there again for the next requests, if it starts.
    """

    def __init__(
        self,
        model: DynamicModel[Any],
        in_flight: int,
        metrics: Metrics,
        devices: Sequence[Device],
        scheduler: Scheduler,
        profile: Profile | None,
        workers: Workers,
    ) -> None:
        super().__init__(model, in_flight, metrics)
        self._devices, self._scheduler, self._profile = devices, scheduler, profile
        self._workers = workers
        self._backend: HardwareBackend | None = None
        self._paces: Paces | None = None

    def serve(self, first: Request, more: Take) -> None:
        """Answer requests together."""
        window = [first]
        while len(window) < self.in_flight and (request := more()) is not None:
            window.append(request)
        self.metrics.in_flight = len(window)
        try:
            self._together(window)
        finally:
            self.metrics.in_flight = 0

    def _together(self, window: Sequence[Request]) -> None:
        try:
            answers = self._computed([request.sample for request in window])
        except Exception as error:  # noqa: BLE001 - whoever asked gets it
            if self._backend is not None and self._backend.is_closed:  # a cell that raises ends it
                self.close()  # the next request makes another, which takes seconds
            if len(window) == 1:
                self.fail(window[0], error)
                return
            for request in window:  # nobody knows whose fault it is: alone it tells
                self._together([request])
            return
        for request, answer in zip(window, answers, strict=True):
            self.answer(request, answer)

    def _computed(self, samples: Sequence[Any]) -> list[Any]:
        inputs = [ModelInput(self.model, sample) for sample in samples]
        workload = merge_inputs(inputs) if len(inputs) > 1 else inputs[0]
        backend, paces = self._ready(samples)
        with backend.open(workload) as session:
            believing = Believing(backend, paces.believed)
            outcome = drive(believing.relayed(session), self._scheduler, paces.believed)
            self.metrics.devices_lost += len(session.lost)
            answers = session.answers()
        self._note(outcome, paces)
        return answers

    def _note(self, outcome: Outcome, paces: Paces) -> None:
        for span in outcome.trace.launches:
            self.metrics.computed(span.device, span.end_ns - span.start_ns)
        if paces.note(outcome):
            self.metrics.replans += 1
        self.metrics.paces = paces.paces

    def _ready(self, samples: Sequence[Any]) -> tuple[HardwareBackend, Paces]:
        if self._profile is None:
            self._profile = rough_profile(self.model, self._devices, samples)
        if self._backend is None:
            self._backend = HardwareBackend(
                self.model, self._devices, profile=self._profile, workers=self._workers
            )
        if self._paces is None:
            self._paces = Paces(self._profile)
        return self._backend, self._paces

    def close(self) -> None:
        """End workers and free devices; they are started again when they are needed."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None
