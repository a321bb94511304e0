"""`dynpartition refit`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dynpartition.cli.verb import Verb
from dynpartition.errors import UsageError
from dynpartition.formats import find_profile, read_runs, write_profile


@dataclass(frozen=True, kw_only=True)
class Refit(Verb):
    """Improve a profile with recorded runs of its machine and write the new one (--json)."""

    profile: str
    """Profile file of this machine, as `calibrate` wrote it."""
    runs: str
    """Files of recorded runs, as `validate --record` wrote them, with commas between."""

    def execute(self) -> None:
        """Re-fit."""
        from dynpartition.calibration.refitting import improved

        paths = [Path(part.strip()) for part in self.runs.split(",") if part.strip()]
        if not paths:
            raise UsageError("--runs names no file; give one that `validate --record` wrote")
        profile = find_profile(self.profile)
        recorded = [read_runs(path) for path in paths]
        result = improved(profile, recorded, self.runs)
        if self.json:
            write_profile(self.json, result.profile)
        counted = sum(len(part.runs) for part in recorded)
        print(f"re-fitted to {counted} runs of {result.jobs} placements")
        if result.before is None or result.after is None:
            print("all inputs have one shape: nothing is left to tell what it gains")
        else:
            print(
                f"error on placements left out: {result.before:.1%} before, {result.after:.1%} now"
            )
