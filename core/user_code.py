"""Functions and classes of a user's own code, by place: `mymodule:name`, `path/to/file.py:name`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

from dynpartition.errors import DynPartitionError, did_you_mean

_PLACE = re.compile(r"(?P<module>[^:]+):(?P<name>[A-Za-z_][\w.]*)")


def is_place(text: str) -> bool:
    """Whether `text` names something in a module or a file."""
    return _PLACE.fullmatch(text) is not None


def absolute(place: str) -> str:
    """Return a place that means the same whatever the working directory is."""
    module, name = _parts(place)
    return f"{os.path.abspath(module) if module.endswith('.py') else module}:{name}"


def find(place: str, error: type[DynPartitionError]) -> Any:
    """Return what has the name; the working directory is searched for modules too.

    Raises `error` for what is not there; what a file raises when it is read is raised as it is.
    """
    module, name = _parts(place)
    return _named(_module(module, error), name, place, error)


def _parts(place: str) -> tuple[str, str]:
    match = _PLACE.fullmatch(place)
    assert match is not None, f"{place!r} is no place"
    return match["module"], match["name"]


def _module(name: str, error: type[DynPartitionError]) -> ModuleType:
    if name.endswith(".py"):
        return _module_of_file(Path(name).resolve(), error)
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name is None or not f"{name}.".startswith(f"{missing.name}."):
            raise
        raise error(
            f"there is no module {name!r}, here or installed; give its name as Python imports it,"
            " or the path of a file"
        ) from missing


def _module_of_file(path: Path, error: type[DynPartitionError]) -> ModuleType:
    if not path.is_file():
        raise error(f"there is no file {path}; give the path of the file with your code")
    name = f"dynpartition_user_{path.stem}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path):
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as dataclasses and pickle expect of modules
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # for what it imports from beside it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _named(module: ModuleType, name: str, place: str, error: type[DynPartitionError]) -> Any:
    try:
        return reduce(getattr, name.split("."), module)
    except AttributeError as missing:
        known = [one for one, value in vars(module).items() if callable(value)]
        raise error(f"{place}: nothing has that name; {did_you_mean(name, known)}") from missing
