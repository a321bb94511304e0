"""Profiles that are shipped with the package."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from dynpartition.errors import ProfileError, did_you_mean
from dynpartition.formats.files import in_file
from dynpartition.formats.profile import parse_profile, read_profile
from dynpartition.profile import Profile


def shipped_names() -> tuple[str, ...]:
    """Return the names of the shipped profiles, in alphabetical order."""
    files = (Path(entry.name) for entry in _folder().iterdir())
    return tuple(sorted(file.stem for file in files if file.suffix == ".json"))


def load_shipped(name: str) -> Profile:
    """Return the shipped profile called `name`; ProfileError when there is none."""
    if name not in shipped_names():
        remedy = did_you_mean(name, shipped_names())
        raise ProfileError(f"{name!r} is neither a file nor a shipped profile; {remedy}")
    file_name = f"{name}.json"
    with in_file(Path(file_name)):
        return parse_profile(_folder().joinpath(file_name).read_bytes())


def find_profile(text: str) -> Profile:
    """Return the profile in the file `text`, or else the shipped one of that name.

    Whatever exists, ends in .json or holds a / is taken for a file.
    """
    path = Path(text)
    if "/" in text or path.suffix == ".json" or path.exists():
        return read_profile(path)
    return load_shipped(text)


def _folder() -> Traversable:
    return resources.files("dynpartition.calibration.profiles")
