"""`Runtime`: models as functions, on devices and by a policy that were chosen once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any
from weakref import WeakSet

from dynpartition.closing import Closing
from dynpartition.cluster import Device
from dynpartition.contract import Scheduler, drive
from dynpartition.device_spec import host_of, parse_devices
from dynpartition.errors import InputError, ModelError
from dynpartition.hardware import HardwareBackend
from dynpartition.hardware.backend import Workers
from dynpartition.models import DynamicModel, ModelInput, merge_inputs
from dynpartition.profile import Profile
from dynpartition.serving.engines import DevicesEngine, Engine, LoopEngine
from dynpartition.serving.loop import Loop
from dynpartition.serving.metrics import Metrics
from dynpartition.serving.rough import rough_profile
from dynpartition.serving.service import QUEUE_MAX, Service

IN_FLIGHT = 16
"""Requests that are under way together by default."""


class Runtime(Closing):
    """Runs models on `devices`, each request as `policy` decides.

    `devices` as in `--devices`, or the devices themselves. On one plain CPU device nothing is left
    to decide: requests run on the calling thread, what is ready of them together. Anywhere else a
    `HardwareBackend` runs them, placed by `policy`: a name as for `--scheduler`, or a scheduler.
    `profile`: what the devices and the model's cells cost, from `calibrate`. Without one the cells
    are timed on the first samples of each model, and links are guessed: good enough for CPU devices
    and cells of some ms; GPUs need a profile. `workers`: what CPU devices but the first are, as for
    `HardwareBackend`; "threads" for a model that was captured in a running program, which processes
    cannot build.

    Close it, or use it in a `with` block. Not for several threads at once: `serve` is.
    """

    def __init__(
        self,
        devices: str | Sequence[Device] = "cpu:0",
        policy: str | Scheduler = "heft+merge",
        *,
        profile: Profile | None = None,
        workers: Workers = "auto",
    ) -> None:
        chosen = parse_devices(devices) if isinstance(devices, str) else tuple(devices)
        self.devices = chosen
        self._profile = profile
        self._workers = workers
        self._scheduler = _scheduler(policy)
        first = chosen[0]
        is_plain = first.kind == "cpu" and first.memory_bytes is None and first.speed == 1.0
        self._is_alone = len(chosen) == 1 and is_plain and not host_of(first.name)
        self._loops: dict[DynamicModel[Any], Loop] = {}
        self._backends: dict[DynamicModel[Any], HardwareBackend] = {}
        self._services: WeakSet[Service] = WeakSet()
        """Those at work keep themselves; others are gone when nobody wants their figures."""

    def __call__(self, model: DynamicModel[Any], sample: Any) -> Any:
        """Return the model's answer for one sample."""
        (answer,) = self.map(model, [sample], in_flight=1)
        return answer

    def map(
        self, model: DynamicModel[Any], samples: Iterable[Any], *, in_flight: int = IN_FLIGHT
    ) -> list[Any]:
        """Return the model's answers for many samples, in their order.

        `in_flight` of them are under way at a time, and what is ready of them runs together, also
        after values that decide what comes next. On one CPU device a request that has ended makes
        room for the next; elsewhere as many go through together.
        """
        _check(model, in_flight)
        return (
            self._on_thread(model, samples, in_flight)
            if self._is_alone
            else list(self._on_devices(model, samples, in_flight))
        )

    def serve(
        self,
        model: DynamicModel[Any],
        *,
        in_flight: int = IN_FLIGHT,
        queue_max: int = QUEUE_MAX,
        timeout_s: float = math.inf,
    ) -> Service:
        """Return a service that answers requests from any thread, on devices of its own.

        `in_flight` requests are computed together, `queue_max` may wait, `timeout_s` is the time
        that a request has where it does not say otherwise. The service ends with the runtime.
        """
        _check(model, in_flight)
        metrics = Metrics()
        engine: Engine
        if self._is_alone:
            engine = LoopEngine(model, in_flight, metrics, self.devices[0].name)
        else:
            engine = DevicesEngine(
                *(model, in_flight, metrics, self.devices),
                *(self._scheduler, self._profile, self._workers),
            )
        service = Service(engine, queue_max, timeout_s)
        self._services.add(service)
        return service

    def _on_thread(
        self, model: DynamicModel[Any], samples: Iterable[Any], in_flight: int
    ) -> list[Any]:
        loop = self._loops.get(model)
        if loop is None:
            loop = self._loops[model] = Loop(model.cells)
        runs = (model.start(sample) for sample in samples)
        answers = dict(loop.run(runs, in_flight))
        return [answers[number] for number in range(len(answers))]

    def _on_devices(
        self, model: DynamicModel[Any], samples: Iterable[Any], in_flight: int
    ) -> Iterator[Any]:
        waiting = iter(samples)
        while window := [ModelInput(model, one) for one in islice(waiting, in_flight)]:
            backend = self._backend(model, window)
            workload = merge_inputs(window) if len(window) > 1 else window[0]
            with backend.open(workload) as session:
                drive(session, self._scheduler, backend.profile)
                yield from session.answers()

    def _backend(self, model: DynamicModel[Any], window: Sequence[ModelInput]) -> HardwareBackend:
        known = self._backends.get(model)
        if known is None or known.is_closed:  # a cell that raises closes it
            profile = self._profile
            if profile is None:
                profile = rough_profile(model, self.devices, [one.sample for one in window])
            self._backends[model] = HardwareBackend(
                model, self.devices, profile=profile, workers=self._workers
            )
        return self._backends[model]

    def close(self) -> None:
        """End services, when they have answered what waits, and workers. Idempotent."""
        for service in list(self._services):
            service.close()
        self._services.clear()
        while self._backends:
            self._backends.popitem()[1].close()
        self._loops.clear()


def _check(model: object, in_flight: int) -> None:
    if in_flight < 1:
        raise InputError(f"in_flight is {in_flight}; give how many requests run at a time")
    if not isinstance(model, DynamicModel):
        raise ModelError(
            f"{type(model).__qualname__} is not captured; call dynpartition.capture(model,"
            " cells=[…]) once and run what it returns"
        )


def _scheduler(policy: str | Scheduler) -> Scheduler:
    if isinstance(policy, Scheduler):
        return policy
    from dynpartition.agent.registry import make_scheduler

    return make_scheduler(policy)
