"""Writes the shipped profiles that are computed: those from datasheets and the paper's node.

    python tools/make_profiles.py [--data FOLDER] [--into FOLDER]

`--data`: where paper_a100_measurements.json and sst_trees_dev_part1.txt lie; without it the paper's
node is left as it is. The measured profiles come from `dynpartition calibrate`; `--measure` makes
the one of two CPU devices on this machine, with the cells of every model.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from dynpartition import parse_devices
from dynpartition.calibration.datasheets import datasheet_profiles
from dynpartition.calibration.identity import sealed
from dynpartition.calibration.measure import calibrate
from dynpartition.calibration.paper_node import fit_paper_node, read_measurements
from dynpartition.cli.provenance import measured_here
from dynpartition.formats import write_profile
from dynpartition.models import build_model, generate_inputs
from dynpartition.models.registry import SHEET_MODELS
from dynpartition.models.tree_files import read_trees
from dynpartition.profile import Profile

SHIPPED = Path(__file__).parent.parent / "calibration" / "profiles"
MEASUREMENTS, TREES = "paper_a100_measurements.json", "sst_trees_dev_part1.txt"
MEASURED = "small-cpu"


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--into", type=Path, default=SHIPPED)
    parser.add_argument("--measure", action="store_true", help=f"write {MEASURED} too")
    asked = parser.parse_args()
    for name, profile in computed_profiles(asked.data).items():
        write_profile(asked.into / f"{name}.json", profile)
        print(f"{name}: {len(profile.cells)} cells on {', '.join(profile.cluster.names)}")
    if asked.measure:
        write_profile(asked.into / f"{MEASURED}.json", measured_profile())


def computed_profiles(data: Path | None) -> dict[str, Profile]:
    """Return name → profile; the paper's node where its measurements are given."""
    profiles = datasheet_profiles()
    if data is not None:
        measured = read_measurements(data / MEASUREMENTS)
        profiles["paper-a100"] = fit_paper_node(measured, read_trees(data / TREES))
    return profiles


def measured_profile(devices: str = "cpu:0,cpu:1", seconds: float = 20.0) -> Profile:
    """Return the profile of this machine's CPU devices with the cells of every model.

    Links and the executor's costs are those found with the first model.
    """
    profiles = []
    for name in SHEET_MODELS:
        model = build_model(name)
        inputs = generate_inputs(model, 64, 0)
        devices_here = parse_devices(devices)
        note = measured_here(name, 0)
        profiles.append(calibrate(model, devices_here, inputs, seconds=seconds, provenance=note))
    cells = {cell: curves for profile in profiles for cell, curves in profile.cells.items()}
    provenance = {**profiles[0].provenance, "model": ", ".join(SHEET_MODELS)}
    stories = zip(SHEET_MODELS, (profile.provenance for profile in profiles), strict=True)
    errors = {name: story["held_out_error"] for name, story in stories if "held_out_error" in story}
    if errors:
        provenance["error"] = errors
    first_uses = {
        cell: uses for profile in profiles for cell, uses in profile.dispatch.first_use_ns.items()
    }
    dispatch = replace(profiles[0].dispatch, first_use_ns=first_uses)
    return sealed(replace(profiles[0], cells=cells, dispatch=dispatch, provenance=provenance))


if __name__ == "__main__":
    main()
