"""Recorded runs on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from dynpartition.cli.provenance import library_versions
from dynpartition.formats import RecordedRun, Runs, write_runs
from dynpartition.profile import Profile


def write_recorded(
    path: Path,
    runs: Sequence[RecordedRun],
    profile: Profile,
    model: str,
    clock: Literal["wall", "virtual"],
) -> None:
    """Write runs of the profile's devices on this machine."""
    from dynpartition.calibration.identity import identities

    devices = identities(profile.cluster.devices)
    write_runs(path, Runs(model, clock, devices, library_versions(), runs))
