"""Keeps what real runs did, for `refit`."""

from __future__ import annotations

from collections.abc import Sequence

from dynpartition.calibration.heldout import input_id
from dynpartition.contract import Backend, Session, Workload
from dynpartition.formats import RecordedRun
from dynpartition.graph import TaskGraph
from dynpartition.hardware import HardwareBackend
from dynpartition.hardware.session import HardwareSession
from dynpartition.models import ModelInput
from dynpartition.plan import Launch, Plan
from dynpartition.profile import Profile
from dynpartition.trace import Trace

RUNS_MAX = 5000
"""Later runs are not kept: a file of that many is large, and re-fits no better."""


class Recorder(Backend):
    """A hardware backend that keeps its finished runs. Runs that lost a device are not kept."""

    def __init__(self, hardware: HardwareBackend) -> None:
        self._hardware = hardware
        self.runs: list[RecordedRun] = []

    @property
    def profile(self) -> Profile:
        """That of the hardware."""
        return self._hardware.profile

    def open(self, workload: Workload) -> Session:
        """Start a run and keep it when it has finished."""
        return _Recorded(self._hardware.open(workload), workload, self.runs)

    def close(self) -> None:
        """Close the hardware."""
        self._hardware.close()


class _Recorded(Session):
    def __init__(
        self, session: HardwareSession, workload: Workload, runs: list[RecordedRun]
    ) -> None:
        self._session = session
        self._workload = workload
        self._runs = runs

    @property
    def graph(self) -> TaskGraph:
        return self._session.graph

    @property
    def plan(self) -> Plan:
        return self._session.plan

    @property
    def profile_now(self) -> Profile | None:
        return self._session.profile_now

    @property
    def trace(self) -> Trace:
        return self._session.trace

    @property
    def waited_ns(self) -> int:
        return self._session.waited_ns

    def advance(self, launches: Sequence[Launch]) -> bool:
        more, session = self._session.advance(launches), self._session
        if not more and not session.lost and len(self._runs) < RUNS_MAX:
            item = self._workload
            known = input_id(item) if isinstance(item, ModelInput) else item.graph.digest
            seen = dict(session.seen_ns)
            run = RecordedRun(known, session.graph, session.plan, session.trace, seen)
            self._runs.append(run)
        return more

    def close(self) -> None:
        self._session.close()
