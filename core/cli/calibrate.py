"""`dynpartition calibrate`."""

from __future__ import annotations

from dataclasses import dataclass

from dynpartition.cli.local import default_devices, local_devices
from dynpartition.cli.options import ModelVerb, check_seconds
from dynpartition.cli.progress import progress_bar
from dynpartition.cli.provenance import measured_here
from dynpartition.formats import write_profile
from dynpartition.profile import Profile


@dataclass(frozen=True, kw_only=True)
class Calibrate(ModelVerb):
    """Measure this machine's devices inside real runs and write a profile file (--json)."""

    devices: str | None = None
    """Devices, for instance cpu:0,cpu:1x0.5,cuda:0@4GB; default: two CPUs, or CPU and GPUs."""
    seconds: float = 20.0
    """How long to measure."""

    def execute(self) -> None:
        """Calibrate."""
        from dynpartition.calibration.measure import calibrate
        from dynpartition.models.splitting import select

        check_seconds("--seconds", self.seconds)
        devices = local_devices(default_devices() if self.devices is None else self.devices)
        model = self.load_model()
        inputs = select(self.load_inputs(model), "train")
        with progress_bar("calibrate") as progress:
            profile = calibrate(
                model,
                devices,
                inputs,
                seconds=self.seconds,
                seed=self.seed,
                progress=progress,
                provenance=measured_here(self.model, self.seed),
            )
        if self.json:
            write_profile(self.json, profile)
        print(describe_profile(profile))


def describe_profile(profile: Profile) -> str:
    """Return the costs of a profile as lines for the terminal."""
    lines = []
    for cell, curves in profile.cells.items():
        costs = [f"{device} {curve.at(1) / 1e3:.1f} µs" for device, curve in curves.items()]
        lines.append(f"{cell:<20} {'   '.join(costs)}")
    links = [f"{link.src + ' -> ' + link.dst:<20} {link.cost}" for link in profile.cluster.links]
    return "\n".join(lines + links)
