"""Options that several verbs share, and what they stand for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynpartition.cli.local import memory_bytes
from dynpartition.cli.verb import Verb
from dynpartition.errors import ModelError, UsageError
from dynpartition.user_code import is_place

if TYPE_CHECKING:
    from dynpartition.models import DynamicModel, ModelInput


INPUTS_MAX = 100_000
"""More generated inputs than this are a slip: they all stay in memory."""

SECONDS_LIMIT = 1e6
"""Days, not months."""

COUNT_MAX = 10_000
"""More cases or repeats than this are a slip."""

_SETTING = re.compile(r"\s*([^=]+?)\s*=\s*([0-9]{1,18})\s*")


@dataclass(frozen=True, kw_only=True)
class ModelVerb(Verb):
    """A verb that works on the inputs of a model."""

    model: str = "treelstm"
    """Model, with settings where wanted: treelstm, moe, treelstm:hidden_dim=512.

    Or your own function that returns one: mymodule:build, path/file.py:build:width=64."""
    trees: Path | None = None
    """File of bracketed parse trees, one a line; else inputs are generated."""
    inputs: int = 200
    """How many inputs are generated."""

    def load_model(self) -> DynamicModel[Any]:
        """Build the model; ModelError for a name or a setting that does not exist."""
        return parse_model(self.model, self.seed)

    def load_inputs(self, model: DynamicModel[Any]) -> list[ModelInput]:
        """Read or generate the inputs."""
        return load_inputs(model, self.trees, self.inputs, self.seed)


def parse_model(text: str, seed: int) -> DynamicModel[Any]:
    """Build the model that `name` or `name:setting=number,…` stands for.

    A name may be a user's function: `module:function`, `file.py:function`.
    """
    from dynpartition.models import build_model
    from dynpartition.models.user_file import load_model

    name, _, settings = text.partition(":")
    function, _, own_settings = settings.partition(":")
    is_own = is_place(f"{name}:{function}")
    if is_own:
        name, settings = f"{name}:{function}", own_settings
    config: dict[str, int] = {}
    for setting in settings.split(",") if settings else []:
        match = _SETTING.fullmatch(setting)
        if match is None:
            raise UsageError(f"--model {text}: write settings as name=number, not {setting!r}")
        if match[1] in config:
            raise UsageError(f"--model {text}: {match[1]} is given twice; give it once")
        config[match[1]] = int(match[2])
    if is_own:
        return load_model(name, config, seed)
    _check_size(text, name, config)
    return build_model(name, config, seed)


def _check_size(text: str, name: str, config: dict[str, int]) -> None:
    """Build the model without memory for its weights first; some settings ask for terabytes."""
    import torch

    from dynpartition.models import build_model

    with torch.device("meta"):
        cells = build_model(name, config).graph_cells
    needed_bytes, there_bytes = sum(cell.param_bytes for cell in cells), memory_bytes()
    if needed_bytes > there_bytes:
        raise ModelError(
            f"--model {text} has {needed_bytes:,} bytes of weights, but this machine has"
            f" {there_bytes:,}; choose smaller settings"
        )


def load_inputs(
    model: DynamicModel[Any], trees: Path | None, count: int, seed: int
) -> list[ModelInput]:
    """Return the inputs from a tree file or, without one, `count` generated inputs."""
    from dynpartition.models import ModelInput, generate_inputs, read_trees

    if trees is None:
        check_count("--inputs", count, most=INPUTS_MAX)
        return generate_inputs(model, count, seed)
    if model.name != "treelstm":
        raise UsageError(
            f"--trees gives parse trees, which {model.name} does not read; leave it out"
        )
    return [ModelInput(model, tree) for tree in read_trees(trees)]


def check_seconds(option: str, seconds: float) -> None:
    """Raise UsageError unless a duration is a positive, finite number."""
    if not 0 < seconds < SECONDS_LIMIT:
        limits = f"above 0 and below {SECONDS_LIMIT:g}"
        raise UsageError(f"{option} is {seconds:g}; give a number of seconds {limits}")


def check_count(option: str, count: int, *, least: int = 1, most: int = COUNT_MAX) -> None:
    """Raise UsageError unless a count is within its limits."""
    if not least <= count <= most:
        raise UsageError(f"{option} is {count}; give a number from {least} to {most}")
