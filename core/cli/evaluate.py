"""`dynpartition evaluate`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dynpartition.cli.local import check_cells, open_hardware
from dynpartition.cli.options import ModelVerb, check_count
from dynpartition.cli.progress import progress_bar
from dynpartition.cli.streams import Build, evaluate_stream, parse_stream, print_stream
from dynpartition.cli.tables import print_evaluation
from dynpartition.cli.validate import clock_of
from dynpartition.errors import UsageError
from dynpartition.formats import check_writable, find_profile, write_json
from dynpartition.profile import Profile

if TYPE_CHECKING:
    from dynpartition.contract import Backend, Scheduler
    from dynpartition.models import DynamicModel, ModelInput

BASELINES = (
    "best-single",
    "best-single+merge",
    "random",
    "round-robin",
    "split-left-right",
    "split-state-output",
    "heft",
    "heft+merge",
)
"""What every evaluation compares with, besides each single device."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(ModelVerb):
    """Run schedulers on held-out inputs, decision time included, and print the comparison."""

    profile: str
    """Profile file, or the name of a shipped profile."""
    backend: Literal["simulator", "hardware"] = "simulator"
    """Where the plans run; hardware means the devices that the profile names."""
    schedulers: str | None = None
    """Comma-separated names; default: every baseline, and the policy where one is given."""
    policy: Path | None = None
    """Checkpoint folder for the schedulers `policy`, `dqn` and `policy-value`."""
    budget_us: float | None = None
    """Time for each decision of a scheduler that searches, in microseconds."""
    evaluations: int | None = None
    """How many plans such a scheduler may try instead, which is repeatable."""
    cases: int = 40
    """How many held-out inputs."""
    repeats: int = 3
    """Runs per scheduler and input, whose median counts."""
    stream: str | None = None
    """Send the inputs as one stream: poisson:RATE_PER_S, file:PATH or closed:CLIENTS[:THINK]."""
    record: Path | None = None
    """File for the traces of all real runs, for `refit`."""

    def execute(self) -> None:
        """Evaluate."""
        from dynpartition.agent.registry import make_scheduler
        from dynpartition.models.splitting import select

        check_count("--cases", self.cases)
        check_count("--repeats", self.repeats)
        build = self._stream()
        profile = find_profile(self.profile)
        self._check_record(profile)
        names = self._names(profile)
        schedulers = {
            name: make_scheduler(
                name,
                seed=self.seed,
                policy=self.policy,
                budget_us=self.budget_us,
                evaluations=self.evaluations,
            )
            for name in names
        }
        model = self.load_model()
        check_cells(model, profile, f"--profile {self.profile}")
        inputs: list[ModelInput] = select(self.load_inputs(model), "test")[: self.cases]
        with self._open(profile, model) as backend:
            if self.record is not None:
                self._evaluate_recording(backend, inputs, schedulers)
            elif build is None:
                self._evaluate(backend, inputs, schedulers)
            else:
                self._evaluate_stream(backend, inputs, schedulers, build)

    def _evaluate(
        self, backend: Backend, inputs: list[ModelInput], schedulers: dict[str, Scheduler]
    ) -> None:
        from dynpartition.agent.evaluation import evaluate

        with progress_bar("evaluate") as progress:
            result = evaluate(
                backend,
                inputs,
                schedulers,
                repeats=self.repeats,
                seed=self.seed,
                progress=progress,
            )
        if self.json:
            write_json(self.json, asdict(result))
        print_evaluation(result)

    def _evaluate_recording(
        self, backend: Backend, inputs: list[ModelInput], schedulers: dict[str, Scheduler]
    ) -> None:
        """Evaluate, and write what ran."""
        from dynpartition.calibration.recording import Recorder
        from dynpartition.cli.recording import write_recorded
        from dynpartition.hardware import HardwareBackend

        assert isinstance(backend, HardwareBackend)
        assert self.record is not None
        recorder = Recorder(backend)
        self._evaluate(recorder, inputs, schedulers)
        write_recorded(self.record, recorder.runs, backend.profile, self.model, "wall")

    def _check_record(self, profile: Profile) -> None:
        """Refuse what could not be recorded, before minutes of runs."""
        if self.record is None:
            return
        if self.backend != "hardware":
            raise UsageError("--record keeps real runs; give --backend hardware, or leave it out")
        if clock_of(profile) != "wall":
            raise UsageError(
                f"--profile {self.profile} is of virtual time, but these runs are timed by the wall"
                " clock, so `refit` could not use them; leave out --record"
            )
        check_writable(self.record)

    def _evaluate_stream(
        self,
        backend: Backend,
        inputs: list[ModelInput],
        schedulers: dict[str, Scheduler],
        build: Build,
    ) -> None:
        text = self.stream or ""
        stream = build([item.graph for item in inputs], self.seed)
        with progress_bar("evaluate") as progress:
            result = evaluate_stream(backend, stream, schedulers, text=text, progress=progress)
        if self.json:
            write_json(self.json, asdict(result))
        print_stream(result)

    def _stream(self) -> Build | None:
        if self.stream is None:
            return None
        if self.backend == "hardware":
            raise UsageError(
                "--stream needs the simulator: the hardware backend runs one input at a time; leave"
                " out --backend hardware"
            )
        return parse_stream(self.stream)

    def _names(self, profile: Profile) -> list[str]:
        from dynpartition.agent.registry import trained_name

        if self.schedulers is None:
            trained = [trained_name(self.policy)] if self.policy else []
            names = [*baseline_names(profile), *trained]
        else:
            names = [name.strip() for name in self.schedulers.split(",")]
        return list(dict.fromkeys(["best-single", *names]))

    def _open(self, profile: Profile, model: DynamicModel[Any]) -> Backend:
        from dynpartition.sim.backend import SimBackend

        if self.backend == "simulator":
            return SimBackend(profile)
        return open_hardware(model, profile)


def baseline_names(profile: Profile) -> list[str]:
    """Return every single device and the other baselines."""
    return [*(f"single:{device}" for device in profile.cluster.names), *BASELINES]
