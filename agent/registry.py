"""Schedulers by the name that `--scheduler` takes. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dynpartition.agent import caching
from dynpartition.agent.heuristics import BestSingle, Random, RoundRobin, SingleDevice
from dynpartition.agent.listing import Cpop, Heft, MinMin, Peft
from dynpartition.agent.merging import SUFFIX, Merging
from dynpartition.agent.paper.config import FORMAT as PAPER_FORMAT
from dynpartition.agent.paper.config import KINDS
from dynpartition.agent.policy import PolicyScheduler
from dynpartition.agent.portfolio import BestOf
from dynpartition.agent.splits import SplitLeftRight, SplitStateOutput
from dynpartition.contract import Scheduler
from dynpartition.errors import SchedulerError, did_you_mean


def _best_of_heuristics(seed: int) -> Scheduler:
    listing = (Heft(), Peft(), Cpop(), MinMin())
    members = (BestSingle(), *listing, SplitLeftRight(), SplitStateOutput())
    return BestOf("best-of-heuristics", members)


_MAKERS: dict[str, Callable[[int], Scheduler]] = {
    "best-single": lambda seed: BestSingle(),
    "random": Random,
    "round-robin": lambda seed: RoundRobin(),
    "split-left-right": lambda seed: SplitLeftRight(),
    "split-state-output": lambda seed: SplitStateOutput(),
    "heft": lambda seed: Heft(),
    "peft": lambda seed: Peft(),
    "cpop": lambda seed: Cpop(),
    "min-min": lambda seed: MinMin(),
    "best-of-heuristics": _best_of_heuristics,
}
NOT_BUILT_YET = (
    "lookahead",
    "local-search",
    "annealing",
    "optimal",
    "policy-search",
)
"""Names that are promised and have no scheduler yet."""


def scheduler_names() -> tuple[str, ...]:
    """Return the names that can be made; `single:DEVICE` stands for one name per device."""
    return ("single:DEVICE", *_MAKERS, *TRAINED)


TRAINED = ("policy", *KINDS)
"""Names that need a checkpoint folder."""


def make_scheduler(name: str, *, seed: int = 0, policy: Path | None = None) -> Scheduler:
    """Return the scheduler called `name`.

    NAME+merge is NAME whose tasks are merged into launches; NAME+cache is NAME that is asked once
    for all graphs of one content.

    `policy`: the checkpoint folder that `policy`, `dqn` or `policy-value` plays. Raises
    SchedulerError for a name that is unknown or not built yet, CheckpointError for a checkpoint
    that cannot be used.
    """
    if name.endswith(caching.SUFFIX):
        inner = make_scheduler(name.removesuffix(caching.SUFFIX), seed=seed, policy=policy)
        return caching.Caching(inner)
    if name.endswith(SUFFIX):
        inner = make_scheduler(name.removesuffix(SUFFIX), seed=seed, policy=policy)
        return Merging(inner)
    if name.startswith("single:"):
        return SingleDevice(_device_name(name))
    if name in TRAINED:
        return _make_trained(name, policy)
    if name in NOT_BUILT_YET:
        raise SchedulerError(
            f"scheduler {name!r} is not built yet; built: {', '.join(scheduler_names())}"
        )
    if name not in _MAKERS:
        remedy = did_you_mean(name, scheduler_names())
        raise SchedulerError(f"no scheduler is named {name!r}; {remedy}")
    return _MAKERS[name](seed)


def trained_name(folder: Path) -> str:
    """Return the name of the scheduler that plays the checkpoint in `folder`."""
    from dynpartition.agent.checkpoint import FORMAT
    from dynpartition.agent.checkpoint_folder import complete_folder, read_manifest

    manifest = read_manifest(complete_folder(folder), FORMAT, PAPER_FORMAT)
    if manifest["format"] == FORMAT:
        return "policy"
    config = manifest.get("config")
    kind = config.get("kind") if isinstance(config, dict) else None
    return kind if kind in KINDS else KINDS[0]  # loading it says what is wrong


def _device_name(name: str) -> str:
    device = name.removeprefix("single:")
    if not device or device == "DEVICE":
        raise SchedulerError(
            f"scheduler {name!r} names no device; write single:cpu:0, for instance"
        )
    return device


def _make_trained(name: str, folder: Path | None) -> Scheduler:
    if folder is None:
        raise SchedulerError(
            f"scheduler {name!r} needs a checkpoint; give its folder with --policy"
        )
    if name == "policy":
        return PolicyScheduler.load(folder)
    from dynpartition.agent.paper.agent import PaperScheduler  # needs torch

    return PaperScheduler.load(folder, name)
