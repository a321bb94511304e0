"""`dynpartition calibrate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dynpartition.cli.local import default_devices, local_devices
from dynpartition.cli.options import ModelVerb, check_seconds
from dynpartition.cli.progress import progress_bar
from dynpartition.cli.provenance import measured_here
from dynpartition.cluster import Link
from dynpartition.costs import transfer_ns
from dynpartition.errors import UsageError
from dynpartition.formats import find_profile, write_profile
from dynpartition.profile import Profile


@dataclass(frozen=True, kw_only=True)
class Calibrate(ModelVerb):
    """Measure this machine's devices inside real runs and write a profile file (--json)."""

    devices: str | None = None
    """Devices, for instance cpu:0,cpu:1x0.5,cuda:0@4GB; default: two CPUs, or CPU and GPUs."""
    seconds: float = 25.0
    """How long to measure."""
    clock: Literal["wall", "virtual"] = "wall"
    """Real time, or the processor time of each CPU device, which other work disturbs less."""
    workers: Literal["auto", "processes", "threads"] = "auto"
    """What CPU devices but the first are; by itself, what suits the model's cells."""
    gpu_links: Literal["host", "nccl"] = "host"
    """How GPUs of rank 0 and of other ranks exchange: by way of host memory, or by NCCL."""
    noise: bool = False
    """Let simulations of this profile scatter as its launches did; else every run is the same."""
    modelled: str | None = None
    """Measure nothing: price this model's cells by the operator models of a profile file."""

    def execute(self) -> None:
        """Calibrate."""
        check_seconds("--seconds", self.seconds)
        if self.modelled is not None and self.devices is not None:
            raise UsageError("--modelled takes the devices of its profile; leave out --devices")
        profile = self._measured() if self.modelled is None else self._modelled(self.modelled)
        if self.json:
            write_profile(self.json, profile)
        print(describe_profile(profile))

    def _measured(self) -> Profile:
        from dynpartition.calibration.measure import calibrate
        from dynpartition.models.splitting import select

        devices = local_devices(default_devices() if self.devices is None else self.devices)
        model = self.load_model()
        inputs = select(self.load_inputs(model), "train")
        with progress_bar("calibrate") as progress:
            return calibrate(
                model,
                devices,
                inputs,
                seconds=self.seconds,
                seed=self.seed,
                clock=self.clock,
                workers=self.workers,
                gpu_links=self.gpu_links,
                noise=self.noise,
                progress=progress,
                provenance=measured_here(self.model, self.seed),
            )

    def _modelled(self, source: str) -> Profile:
        from dynpartition.calibration.modelling import modelled

        model = self.load_model()
        return modelled(find_profile(source), model, self.load_inputs(model), self.model)


def describe_profile(profile: Profile) -> str:
    """Return the costs of a profile, and how exact they are, as lines for the terminal."""
    lines = []
    for cell, curves in profile.cells.items():
        costs = [f"{device} {curve.at(1) / 1e3:.1f} µs" for device, curve in curves.items()]
        lines.append(f"{cell:<20} {'   '.join(costs)}")
    links = [_describe_link(link) for link in profile.cluster.links]
    return "\n".join([*lines, *links, *_exactness(profile)])


def _describe_link(link: Link) -> str:
    times = [
        f"{size} {transfer_ns(link.cost, n_bytes) / 1e3:.1f} µs"
        for size, n_bytes in (("1 kB", 10**3), ("1 MB", 10**6))
    ]
    return f"{link.src + ' -> ' + link.dst:<20} {'   '.join(times)}"


def _exactness(profile: Profile) -> list[str]:
    story = profile.provenance
    error, noise, wrong = (
        story.get(key) for key in ("held_out_error", "held_out_noise", "left_out")
    )
    lines = []
    if isinstance(error, float) and isinstance(noise, float):
        lines.append(
            f"placements left out of the fit: {error:.1%} mean error, measured to ± {noise:.1%}"
        )
    uncalled = story.get("uncalled")
    if isinstance(uncalled, list | tuple) and uncalled:
        lines.append(
            f"without a cost: {', '.join(map(str, uncalled))}; no input calls them. For inputs that"
            " do: calibrate --modelled THIS.json --inputs MORE"
        )
    if isinstance(wrong, dict) and wrong:
        lines += [f"left out: {count} × {what}" for what, count in wrong.items()]
    return lines
