"""`dynpartition validate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dynpartition.cli.local import check_cells, open_hardware
from dynpartition.cli.options import SECONDS_LIMIT, ModelVerb, check_count
from dynpartition.cli.progress import progress_bar
from dynpartition.cli.recording import write_recorded
from dynpartition.errors import UsageError
from dynpartition.formats import check_writable, find_profile, write_json
from dynpartition.profile import Profile

if TYPE_CHECKING:
    from dynpartition.calibration.validation import Validation
    from dynpartition.contract import Scheduler

SPLITS = ("heft", "heft+merge", "best-single+merge", "split-left-right")


@dataclass(frozen=True, kw_only=True)
class Validate(ModelVerb):
    """Compare simulated with measured makespans on inputs that calibration never used.

    The verdict is `pass`, `fail`, or `inconclusive` where the measurements repeat too badly.
    """

    profile: str
    """Profile file of this machine, as `calibrate` wrote it."""
    cases: int = 20
    """How many held-out inputs."""
    placements: int = 12
    """How many placements of each: single devices, heuristics, the policy, random, adversarial."""
    repeats: int = 16
    """How often each placement is measured."""
    longer: float = 0.0
    """Seconds to go on measuring while the result is inconclusive."""
    policy: Path | None = None
    """Checkpoint folder of a policy whose placements are compared too."""
    plot: Path | None = None
    """SVG file for a plot of measured against simulated makespans."""
    record: Path | None = None
    """File for the traces of all real runs, for `refit`."""

    def execute(self) -> None:
        """Validate."""
        from dynpartition.calibration.anchors import anchors_of
        from dynpartition.calibration.heldout import Used
        from dynpartition.calibration.recording import Recorder
        from dynpartition.calibration.validation import validate
        from dynpartition.models.splitting import select
        from dynpartition.sim.backend import SimBackend

        self._check()
        profile = find_profile(self.profile)
        model = self.load_model()
        check_cells(model, profile, f"--profile {self.profile}")
        schedulers = placements(profile, self.seed, self.policy)
        every = self.load_inputs(model)
        inputs, known_shapes = Used.of(profile).to_judge_by(select(every, "test"))
        inputs = inputs[: self.cases]
        clock = clock_of(profile)
        with (
            open_hardware(model, profile, clock) as hardware,
            progress_bar("validate") as progress,
        ):
            recorder = Recorder(hardware)
            validation = validate(
                SimBackend(profile),
                recorder if self.record else hardware,
                inputs,
                schedulers,
                repeats=self.repeats,
                placements=self.placements,
                anchors=anchors_of(profile, every),
                longer_s=self.longer,
                seed=self.seed,
                known_shapes=known_shapes,
                progress=progress,
            )
        if self.record:
            write_recorded(self.record, recorder.runs, profile, self.model, clock)
        if self.json:
            write_json(self.json, asdict(validation))
        if self.plot:
            write_plot(self.plot, validation)
        print_validation(validation)

    def _check(self) -> None:
        check_count("--cases", self.cases)
        check_count("--placements", self.placements)
        check_count("--repeats", self.repeats, least=2)
        if not 0 <= self.longer < SECONDS_LIMIT:
            raise UsageError(f"--longer is {self.longer:g}; give seconds from 0 on")
        for path in (self.record, self.plot):
            if path is not None:
                check_writable(path)  # before minutes of runs


def clock_of(profile: Profile) -> Literal["wall", "virtual"]:
    """Return the clock that a profile was measured by."""
    return "virtual" if profile.provenance.get("clock") == "virtual" else "wall"


def placements(profile: Profile, seed: int, policy: Path | None = None) -> Mapping[str, Scheduler]:
    """Return the schedulers whose plans are compared: every single device and some splits."""
    from dynpartition.agent.registry import make_scheduler

    names = [f"single:{device}" for device in profile.cluster.names]
    names += SPLITS if len(names) > 1 else []
    names += ["policy"] if policy is not None else []
    return {name: make_scheduler(name, seed=seed, policy=policy) for name in names}


def write_plot(path: Path, validation: Validation) -> None:
    """Write measured against simulated makespans as an SVG file; the diagonal is exact."""
    from matplotlib.figure import Figure

    from dynpartition.formats import writing

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot(
        xscale="log", yscale="log", xlabel="simulated, ms", ylabel="measured, ms"
    )
    by_scheduler: dict[str, list[tuple[float, float]]] = {}
    for case in validation.cases:
        row = by_scheduler.setdefault(case.scheduler, [])
        row.append((case.simulated_ns / 1e6, case.measured_ns / 1e6))
    for name, points in by_scheduler.items():
        simulated, measured = zip(*points, strict=True)
        axes.scatter(simulated, measured, s=12, label=name, alpha=0.7)
    ends = [value for points in by_scheduler.values() for point in points for value in point]
    axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color="black", linewidth=0.8)
    axes.set_title(describe_errors(validation), fontsize=8)
    axes.legend(fontsize=6)
    with writing(path):
        figure.savefig(path, format="svg")


def describe_errors(validation: Validation) -> str:
    """Return the error figures in few words."""
    return (
        f"mean error {validation.mape:.1%}, bias {validation.bias:+.1%}, 95 % below"
        f" {validation.p95:.1%}, worst {validation.worst:.1%}"
    )


def describe_validation(validation: Validation) -> str:
    """Return the error figures and the verdict as lines."""
    tau = "no two placements differ" if validation.tau is None else f"{validation.tau:.3f}"
    counts = f"{len(validation.cases)} placements of {len(validation.graphs)} inputs"
    return "\n".join(
        [
            f"simulated against measured, {counts}: {describe_errors(validation)}",
            f"ranking: Kendall's tau {tau}; the placement that the simulator prefers is"
            f" {validation.regret:.2%} slower than the fastest, optimism"
            f" {validation.optimism:+.1%}",
            *describe_paces(validation),
            f"the measurements themselves repeat within {validation.noise:.1%};"
            f" {validation.conclusive:.0%} of the inputs are conclusive",
            f"verdict: {validation.verdict}{_decisive(validation)}",
            *([KNOWN_SHAPES] if validation.known_shapes else []),
        ]
    )


KNOWN_SHAPES = (
    "the model has no shapes that the profile was not fitted to: inputs and placements are new,"
    " shapes are not"
)


def describe_paces(validation: Validation) -> list[str]:
    """Return what the machine did otherwise than during calibration, as lines."""
    if not validation.paces:
        return []
    now = ", ".join(f"{device} takes {pace - 1:+.1%}" for device, pace in validation.paces.items())
    return [
        f"since calibration {now} (placements run again); had this not been known, the mean error"
        f" would be {validation.calibrated_mape:.1%}, bias {validation.calibrated_bias:+.1%}"
    ]


def _decisive(validation: Validation) -> str:
    if validation.verdict == "inconclusive":
        return " (counts as not passed; measure longer with --longer, or on a quieter machine)"
    tau = validation.decisive_tau
    ranked = "" if tau is None else f", tau {tau:.3f}"
    return (
        f" (conclusive inputs: error {validation.decisive_mape:.1%}{ranked}, regret"
        f" {validation.decisive_regret:.2%})"
    )


def print_validation(validation: Validation) -> None:
    """Print a row per placement and the figures over all."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from dynpartition.cli.words import printable

    table = Table(title="simulated against measured", title_justify="left")
    for column in ("placement", "inputs", "mean error", "bias", "worst", "repeats within"):
        table.add_column(column, justify="left" if column == "placement" else "right")
    for name in dict.fromkeys(case.scheduler for case in validation.cases):
        own = [case for case in validation.cases if case.scheduler == name]
        errors = [case.error for case in own]
        size = [abs(error) for error in errors]
        table.add_row(
            escape(printable(name)),
            f"{len(own)}",
            f"{sum(size) / len(own):.1%}",
            f"{sum(errors) / len(own):+.1%}",
            f"{max(size):.1%}",
            f"{sum(case.half_error for case in own) / len(own):.1%}",
        )
    console = Console()
    console.width = max(console.width, 90)
    with console.capture() as captured:  # rich itself would end the program at a broken pipe
        console.print(table)
    print(captured.get(), end="")
    print(describe_validation(validation))
