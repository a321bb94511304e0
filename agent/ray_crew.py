"""Rollouts on Ray: actors, on this machine or a cluster, that work lessons out.

Everybody needs the extra: `pip install 'dynpartition[ray]'`. An actor holds what it plays and is
sent weights and seeds; what it answers depends on these alone. So Ray may start a lost actor again
and ask it once more, and what an actor that is gone for good owed is asked of the others.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynpartition.agent.config import TrainConfig
from dynpartition.agent.lessons import Course, Inputs, Lesson, Source, learn_from
from dynpartition.agent.rollout import Player
from dynpartition.agent.train import drawing
from dynpartition.contract import GraphWorkload, Workload
from dynpartition.errors import TrainingError
from dynpartition.profile import Profile
from dynpartition.sim.backend import SimBackend

if TYPE_CHECKING:
    from dynpartition.agent.policy import Policy

MakeSource = Callable[[], Source]
"""Makes the source of cases, in every actor: the same one everywhere."""

RESTARTS = 3
"""How often Ray starts one actor again, and asks again what it owed."""


def simulated_inputs(
    profile: Profile, workloads: Sequence[Workload], config: TrainConfig
) -> MakeSource:
    """Return how actors come to what `train` plays in a simulator of `profile`.

    Graphs travel, not models: simulated runs need no more, and actors no PyTorch.
    """
    graphs = [workload.graph for workload in workloads]
    return partial(_simulated, profile, graphs, config)


def _simulated(profile: Profile, graphs: Sequence[Any], config: TrainConfig) -> Inputs:
    player = Player(SimBackend(profile), baseline_repeats=config.baseline_repeats)
    draw = drawing(config, len(graphs))
    return Inputs(player, [GraphWorkload(graph) for graph in graphs], draw)


class _Actor:
    """Lives in a process of Ray's."""

    def __init__(self, make_source: MakeSource) -> None:
        self._source = make_source()
        self._known: tuple[int, Policy] | None = None

    def learn(self, number: int, at: int, serial: int, course: Course) -> Lesson:
        """Work out one lesson; `serial` numbers courses."""
        # What Ray hands over cannot be written to: to compiled code that is another type, for which
        # it would be compiled anew, in minutes.
        arrays = {name: getattr(course, name).copy() for name in ("weights", "styles", "seeds")}
        own = replace(course, **arrays)
        if self._known is None or self._known[0] != serial:
            self._known = serial, own.policy
        return learn_from(self._source.case(number), self._known[1], own, at)


class RayCrew:
    """Actors that work lessons out, whoever is free the next one."""

    def __init__(self, make_source: MakeSource, n_actors: int) -> None:
        """Ray must be running; see `ray_crew`."""
        import ray

        # Kept for as long as there are actors: those that are started again ask for it again.
        self._source = ray.put(make_source)
        options = {"num_cpus": 1, "max_restarts": RESTARTS, "max_task_retries": RESTARTS}
        remote = ray.remote(_Actor).options(**options)
        self.actors: list[Any] = [remote.remote(self._source) for _ in range(n_actors)]
        """Those that are left."""
        self._serial = 0

    def learn(self, numbers: Sequence[int], course: Course) -> list[Lesson]:
        """Return the lessons of the cases of these numbers, in their order.

        Raises TrainingError when no actor is left.
        """
        import ray

        shared = ray.put(course)
        self._serial += 1
        due = deque(range(len(numbers)))
        idle, asked = deque(self.actors), dict[Any, tuple[int, Any]]()
        lessons: dict[int, Lesson] = {}
        while len(lessons) < len(numbers):
            while due and idle:
                at, actor = due.popleft(), idle.popleft()
                call = actor.learn.remote(numbers[at], at, self._serial, shared)
                asked[call] = at, actor
            (answered,), _ = ray.wait(list(asked), num_returns=1)
            at, actor = asked.pop(answered)
            try:
                lessons[at] = ray.get(answered)
            except ray.exceptions.RayActorError as error:
                due.appendleft(at)
                self._dismiss(actor, error)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None  # as it would have been raised here
            else:
                idle.append(actor)
        return [lessons[at] for at in range(len(numbers))]

    def _dismiss(self, actor: Any, error: Exception) -> None:
        self.actors.remove(actor)
        if not self.actors:
            reason = " ".join(str(error).split())
            raise TrainingError(
                f"all workers on Ray were lost, the last one {1 + RESTARTS} times: {reason};"
                " look at its logs, or train without --workers"
            ) from error

    def close(self) -> None:
        """End the actors."""
        import ray

        for actor in self.actors:
            ray.kill(actor)
        self.actors = []


@contextmanager
def ray_crew(make_source: MakeSource, n_actors: int | None = None) -> Iterator[RayCrew]:
    """Yield actors on Ray: `n_actors`, or one for each CPU that Ray has.

    On the Ray that this process is connected to, else on the cluster that RAY_ADDRESS names, else
    on one of this machine alone, which ends with the block and leaves no files behind.
    Raises TrainingError without Ray, and for more actors than there are CPUs.
    """
    with _connected(n_actors) as n_cpus:
        if n_actors is not None and n_actors > n_cpus:
            raise TrainingError(
                f"{n_actors} workers are asked for, but Ray has {n_cpus} CPUs; ask for at most"
                " these, or add machines with `ray start`"
            )
        crew = RayCrew(make_source, n_actors or n_cpus)
        try:
            yield crew
        finally:
            crew.close()


@contextmanager
def _connected(n_cpus: int | None) -> Iterator[int]:
    """Connect to Ray, if need be to one of our own; yield how many CPUs it has."""
    try:
        import ray
    except ImportError:
        raise TrainingError(
            "rollouts on Ray need Ray; pip install 'dynpartition[ray]', or leave --workers out"
        ) from None
    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            stack.enter_context(_ray_of_our_own(ray, n_cpus))
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        yield int(resources.get("CPU", 0))


@contextmanager
def _ray_of_our_own(ray: Any, n_cpus: int | None) -> Iterator[None]:
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, object] = {"log_to_driver": False, "logging_level": "ERROR"}
    folder = None
    if address is None:
        # Sockets lie in there, and no path of one may be longer than 107 bytes.
        folder = Path(tempfile.mkdtemp(prefix="ray-", dir=_short_folder()))
        local = {"address": "local", "include_dashboard": False, "_temp_dir": str(folder)}
        options |= {**local, "num_cpus": n_cpus}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        try:
            ray.init(**options)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            where = "on this machine" if address is None else f"at RAY_ADDRESS={address}"
            reason = " ".join(str(error).split())
            raise TrainingError(f"cannot connect to Ray {where}: {reason}") from error
        yield
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _short_folder() -> str | None:
    """Return where a folder with sockets may lie; None: at the usual place."""
    return "/tmp" if len(tempfile.gettempdir()) > 20 and os.path.isdir("/tmp") else None
