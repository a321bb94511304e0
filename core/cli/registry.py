"""Which verbs there are."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from dynpartition.cli.verb import Verb
from dynpartition.errors import UsageError, did_you_mean

VERBS: Mapping[str, str] = {
    "quickstart": "the whole loop on this machine's devices, in minutes",
    "calibrate": "measure this machine's devices, write a profile file",
    "validate": "compare simulated with measured makespans",
    "refit": "improve a profile with recorded runs",
    "schedule": "plan a graph with a scheduler, write a plan file",
    "simulate": "run a plan in the simulator, write a trace file",
    "pretrain": "train a policy in the simulator",
    "finetune": "train a policy on with real runs",
    "evaluate": "compare schedulers, in the simulator or on hardware",
    "report": "build one offline page from a run or from traces",
    "profiles": "list the profiles that are shipped",
}
"""Verb → what it does. Verb `foo` is the class `Foo` in `dynpartition.cli.foo`."""


def load_verb(name: str) -> type[Verb]:
    """Return the class of a verb; UsageError when there is none of that name."""
    if name not in VERBS:
        raise UsageError(f"no command is named {name!r}; {did_you_mean(name, VERBS)}")
    verb: type[Verb] = getattr(import_module(f"dynpartition.cli.{name}"), name.capitalize())
    return verb
