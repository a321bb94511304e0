"""Keeps what real runs did, for `refit`."""

from __future__ import annotations

from collections.abc import Sequence

from dynpartition.calibration.heldout import input_id
from dynpartition.contract import Backend, RelayedSession, Session, Workload
from dynpartition.formats import RecordedRun
from dynpartition.hardware import HardwareBackend
from dynpartition.hardware.session import HardwareSession
from dynpartition.models import ModelInput
from dynpartition.plan import Launch
from dynpartition.profile import Profile

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


class _Recorded(RelayedSession):
    def __init__(
        self, session: HardwareSession, workload: Workload, runs: list[RecordedRun]
    ) -> None:
        super().__init__(session)
        self._hardware = session
        self._workload = workload
        self._runs = runs

    def advance(self, launches: Sequence[Launch]) -> bool:
        more, session = super().advance(launches), self._hardware
        if not more and not session.lost and len(self._runs) < RUNS_MAX:
            item = self._workload
            known = input_id(item) if isinstance(item, ModelInput) else item.graph.digest
            seen = dict(session.seen_ns)
            run = RecordedRun(known, session.graph, session.plan, session.trace, seen)
            self._runs.append(run)
        return more
