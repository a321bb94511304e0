"""`dynpartition quickstart`: the whole loop on this machine's devices."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynpartition.belief import Believing
from dynpartition.cli.evaluate import baseline_names
from dynpartition.cli.finetune import describe_finetuning, finetune_into
from dynpartition.cli.local import default_devices, local_devices
from dynpartition.cli.options import ModelVerb, check_seconds
from dynpartition.cli.progress import progress_bar
from dynpartition.cli.provenance import measured_here
from dynpartition.cli.run_writer import RunWriter
from dynpartition.cli.tables import print_evaluation
from dynpartition.cli.training import (
    CHECKPOINT,
    describe_training,
    make_folder,
    pretraining,
    train_into,
)
from dynpartition.cli.validate import describe_validation, placements
from dynpartition.contract import FixedPlan, Outcome, Scheduler
from dynpartition.contract import run as run_workload
from dynpartition.errors import CalibrationError
from dynpartition.formats import (
    write_bytes,
    write_graph,
    write_json,
    write_plan,
    write_profile,
    write_trace,
)

if TYPE_CHECKING:
    from dynpartition.agent.evaluation import Evaluation
    from dynpartition.agent.policy import Policy
    from dynpartition.cluster import Device
    from dynpartition.contract import Backend
    from dynpartition.models import DynamicModel, ModelInput
    from dynpartition.models.splitting import Part
    from dynpartition.profile import Profile

CALIBRATE_SHARE, PRETRAIN_SHARE, FINETUNE_SHARE = 0.2, 0.5, 0.3
"""How the time budget is spent; validating and evaluating come on top."""

VALIDATION_CASES, EVALUATION_CASES = 10, 30
"""Held-out inputs for the two measurements."""

TIMELINE_REPEATS = 5
"""Real runs of the plan that is drawn; the one with the median makespan is shown."""


@dataclass(frozen=True, kw_only=True)
class Quickstart(ModelVerb):
    """Calibrate, pretrain, validate, fine-tune and evaluate on this machine; minutes.

    Ends with a table and a report. Everything it makes lies in one folder (--run).
    """

    devices: str | None = None
    """Devices, for instance cpu:0,cpu:1x0.5,cuda:0@4GB; default: two CPUs, or CPU and GPUs."""
    run: Path | None = None
    """Where everything goes; default: a new folder in runs/."""
    seconds: float = 120.0
    """Time for calibrating and training together."""

    def execute(self) -> None:
        """Run the whole loop."""
        check_seconds("--seconds", self.seconds)
        text = default_devices() if self.devices is None else self.devices
        devices = local_devices(text)
        model = self.load_model()
        parts = split(self.load_inputs(model))
        folder = self.run or Path("runs") / f"{datetime.now():%Y-%m-%d-%H%M%S}-{model.name}"
        writer = RunWriter.create(
            folder,
            command=["dynpartition", *sys.argv[1:]],
            seed=self.seed,
            model={"name": model.name, **model.config.plain()},
            devices=text,
        )
        print(f"run folder: {folder}")
        evaluation = _Loop(self, devices, model, parts, writer).run()
        print_evaluation(evaluation)
        print(f"report: {folder / 'report.html'}")
        if self.json:
            write_json(self.json, asdict(evaluation))


def split(inputs: Sequence[ModelInput]) -> dict[Part, list[ModelInput]]:
    """Return the inputs by part; InputError when a part is empty."""
    from dynpartition.models.splitting import PARTS, select

    return {part: select(inputs, part) for part in PARTS}


class _Loop:
    """The stages, in order; each leaves its results in the run folder before the next begins."""

    def __init__(
        self,
        asked: Quickstart,
        devices: Sequence[Device],
        model: DynamicModel[Any],
        parts: Mapping[Part, Sequence[ModelInput]],
        writer: RunWriter,
    ) -> None:
        self.asked = asked
        self.devices = devices
        self.model = model
        self.writer = writer
        self.folder = writer.path
        self.train, self.choose, self.test = parts["train"], parts["validation"], parts["test"]

    def run(self) -> Evaluation:
        """Go through all stages and return the evaluation on hardware."""
        from dynpartition.agent.policy import Policy
        from dynpartition.hardware import HardwareBackend
        from dynpartition.sim.backend import SimBackend

        profile = self._calibrate()
        simulator = SimBackend(profile)
        untrained = Policy.untrained(self.asked.seed)
        self._pretrain(simulator)
        with HardwareBackend(self.model, self.devices, profile=profile) as hardware:
            self._validate(simulator, hardware)
            corrected = self._finetune(hardware)
            known = Believing(hardware, corrected)
            schedulers = self._schedulers(corrected, untrained)
            evaluation = self._evaluate(SimBackend(corrected), known, schedulers)
            self._draw_timeline(simulator, known, schedulers)
        self._report()
        return evaluation

    def _calibrate(self) -> Profile:
        from dynpartition.calibration.measure import calibrate

        with self.writer.stage("calibrate"), progress_bar("calibrate") as progress:
            profile = calibrate(
                self.model,
                self.devices,
                self.train,
                seconds=CALIBRATE_SHARE * self.asked.seconds,
                seed=self.asked.seed,
                progress=progress,
                provenance=measured_here(self.asked.model, self.asked.seed),
            )
            write_profile(self.folder / "profile.json", profile)
        return profile

    def _pretrain(self, simulator: Backend) -> None:
        start, config = pretraining(PRETRAIN_SHARE * self.asked.seconds, self.asked.seed)
        with self.writer.stage("pretrain"):
            parts = (self.train, self.choose)
            result = train_into(self.folder / "pretrain", simulator, parts, start, config)
        print(f"pretrain: {describe_training(result)}")

    def _validate(self, simulator: Backend, hardware: Backend) -> None:
        from dynpartition.calibration.anchors import anchors_of
        from dynpartition.calibration.heldout import Used
        from dynpartition.calibration.validation import validate

        try:
            inputs, known_shapes = Used.of(hardware.profile).to_judge_by(self.test)
            with self.writer.stage("validate"), progress_bar("validate") as progress:
                validation = validate(
                    simulator,
                    hardware,
                    inputs[:VALIDATION_CASES],
                    placements(hardware.profile, self.asked.seed, self._policy()),
                    anchors=anchors_of(hardware.profile, self.train),
                    seed=self.asked.seed,
                    known_shapes=known_shapes,
                    progress=progress,
                )
                self.writer.write("validation.json", asdict(validation))
        except CalibrationError as error:
            print(f"validate: left out, {error}")
            return
        print(f"validate: {describe_validation(validation)}")

    def _policy(self) -> Path:
        return self.folder / "pretrain" / CHECKPOINT

    def _finetune(self, hardware: Backend) -> Profile:
        """Return the corrected profile."""
        from dynpartition.agent.checkpoint import load_checkpoint
        from dynpartition.agent.finetuning import FinetuneConfig

        seconds = FINETUNE_SHARE * self.asked.seconds / 3  # of each of three stages
        config = FinetuneConfig(seconds=seconds, seed=self.asked.seed)
        with self.writer.stage("finetune"):
            start = load_checkpoint(self.folder / "pretrain" / CHECKPOINT).policy
            parts = (self.train, self.choose)
            folder, model = self.folder / "finetune", self.asked.model
            tuned = finetune_into(folder, hardware, parts, start, config, model=model)
        print(f"finetune: {describe_finetuning(tuned)}")
        return tuned.profile

    def _schedulers(self, profile: Profile, untrained: Policy) -> dict[str, Scheduler]:
        from dynpartition.agent.policy import PolicyScheduler
        from dynpartition.agent.registry import make_scheduler

        seed = self.asked.seed
        schedulers = {name: make_scheduler(name, seed=seed) for name in baseline_names(profile)}
        schedulers["policy, untrained"] = PolicyScheduler(untrained)
        for label, stage in (("pretrained", "pretrain"), ("fine-tuned", "finetune")):
            folder = self.folder / stage / CHECKPOINT
            schedulers[f"policy, {label}"] = make_scheduler("policy", seed=seed, policy=folder)
        return schedulers

    def _evaluate(
        self, simulator: Backend, hardware: Backend, schedulers: Mapping[str, Scheduler]
    ) -> Evaluation:
        from dynpartition.agent.evaluation import evaluate

        inputs = self.test[:EVALUATION_CASES]
        with self.writer.stage("evaluate"), progress_bar("evaluate") as progress:
            simulated = evaluate(simulator, inputs, schedulers, seed=self.asked.seed)
            measured = evaluate(
                hardware, inputs, schedulers, repeats=3, seed=self.asked.seed, progress=progress
            )
            rows = [
                asdict(row) | {"simulated_mean_ms": simulated.row(row.scheduler).makespan_ms}
                for row in measured.rows
            ]
            self.writer.write("evaluation.json", asdict(measured) | {"rows": rows})
        return measured

    def _draw_timeline(
        self, simulator: Backend, hardware: Backend, schedulers: Mapping[str, Scheduler]
    ) -> None:
        """Record one plan on both backends: of an input of median size, over several devices."""
        item = sorted(self.test, key=lambda item: len(item.graph))[len(self.test) // 2]
        with self.writer.stage("timeline"):
            make_folder(self.folder / "timeline")
            candidates = ("policy, fine-tuned", "heft", "split-left-right")
            outcomes = [run_workload(hardware, item, schedulers[name]) for name in candidates]
            spread = [o for o in outcomes if len(set(o.plan.placement().values())) > 1]
            plan = (spread or outcomes)[0].plan
            real = sorted(
                (run_workload(hardware, item, FixedPlan(plan)) for _ in range(TIMELINE_REPEATS)),
                key=lambda outcome: outcome.trace.makespan_ns,
            )[TIMELINE_REPEATS // 2]
            self._write_timeline(real, run_workload(simulator, item, FixedPlan(plan)))

    def _write_timeline(self, real: Outcome, simulated: Outcome) -> None:
        folder = self.folder / "timeline"
        write_graph(folder / "graph.json", real.graph)
        write_plan(folder / "plan.json", real.plan, real.graph)
        write_trace(folder / "simulated.json", simulated.trace, simulated.graph)
        write_trace(folder / "real.json", real.trace, real.graph)

    def _report(self) -> None:
        from dynpartition.cli.page import run_page
        from dynpartition.cli.run_folder import read_run_folder

        page = run_page(read_run_folder(self.folder))
        write_bytes(self.folder / "report.html", page.encode())
