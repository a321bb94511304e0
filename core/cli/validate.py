"""`dynpartition validate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from dynpartition.cli.local import check_cells, open_hardware
from dynpartition.cli.options import ModelVerb, check_count
from dynpartition.cli.progress import progress_bar
from dynpartition.formats import find_profile, write_json
from dynpartition.profile import Profile

if TYPE_CHECKING:
    from dynpartition.calibration.validation import Validation
    from dynpartition.contract import Scheduler

SPLITS = ("heft", "heft+merge", "best-single+merge", "random", "round-robin", "split-left-right")


@dataclass(frozen=True, kw_only=True)
class Validate(ModelVerb):
    """Compare simulated with measured makespans on inputs that calibration never used."""

    profile: str
    """Profile file of this machine, as `calibrate` wrote it."""
    cases: int = 20
    """How many held-out inputs."""
    repeats: int = 8
    """How often each placement is measured."""

    def execute(self) -> None:
        """Validate."""
        from dynpartition.calibration.validation import validate
        from dynpartition.models.splitting import select
        from dynpartition.sim.backend import SimBackend

        check_count("--cases", self.cases)
        check_count("--repeats", self.repeats, least=2)
        profile = find_profile(self.profile)
        model = self.load_model()
        check_cells(model, profile, f"--profile {self.profile}")
        inputs = select(self.load_inputs(model), "test")[: self.cases]
        with (
            open_hardware(model, profile) as hardware,
            progress_bar("validate") as progress,
        ):
            validation = validate(
                SimBackend(profile),
                hardware,
                inputs,
                placements(profile, self.seed),
                repeats=self.repeats,
                seed=self.seed,
                progress=progress,
            )
        if self.json:
            write_json(self.json, asdict(validation))
        print(describe_validation(validation))


def placements(profile: Profile, seed: int) -> Mapping[str, Scheduler]:
    """Return the schedulers whose plans are compared: every single device and some splits."""
    from dynpartition.agent.registry import make_scheduler

    names = [f"single:{device}" for device in profile.cluster.names]
    names += SPLITS if len(names) > 1 else []
    return {name: make_scheduler(name, seed=seed) for name in names}


def describe_validation(validation: Validation) -> str:
    """Return the error figures as one line."""
    return (
        f"simulated against measured: mean error {validation.mape:.1%},"
        f" bias {validation.bias:+.1%}, worst {validation.worst:.1%};"
        f" the measurements themselves repeat within {validation.noise:.1%}"
        f" ({len(validation.cases)} placements)"
    )
