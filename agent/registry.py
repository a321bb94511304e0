"""Schedulers by the name that `--scheduler` takes. Importing this imports no torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dynpartition.agent import caching
from dynpartition.agent.heuristics import BestSingle, Random, RoundRobin, SingleDevice
from dynpartition.agent.listing import Cpop, Heft, ListPlanner, Lookahead, MinMin, Peft
from dynpartition.agent.merging import SUFFIX, Merging
from dynpartition.agent.paper.config import FORMAT as PAPER_FORMAT
from dynpartition.agent.paper.config import KINDS
from dynpartition.agent.policy import SHIPPED, PolicyScheduler
from dynpartition.agent.portfolio import BestOf
from dynpartition.agent.splits import SplitLeftRight, SplitRequests, SplitStateOutput
from dynpartition.contract import Scheduler
from dynpartition.errors import CheckpointError, SchedulerError, did_you_mean
from dynpartition.user_code import find, is_place

if TYPE_CHECKING:
    from dynpartition.agent.searching import Search


def heuristics() -> tuple[ListPlanner, ...]:
    """Return the members of `best-of-heuristics`, around whose plans others search."""
    listing = (Heft(), Peft(), Cpop(), MinMin(), Lookahead())
    return (BestSingle(), *listing, SplitLeftRight(), SplitStateOutput())


_MAKERS: dict[str, Callable[[int], Scheduler]] = {
    "best-single": lambda seed: BestSingle(),
    "random": Random,
    "round-robin": lambda seed: RoundRobin(),
    "split-left-right": lambda seed: SplitLeftRight(),
    "split-state-output": lambda seed: SplitStateOutput(),
    "split-requests": lambda seed: SplitRequests(),
    "heft": lambda seed: Heft(),
    "peft": lambda seed: Peft(),
    "cpop": lambda seed: Cpop(),
    "min-min": lambda seed: MinMin(),
    "lookahead": lambda seed: Lookahead(),
    "best-of-heuristics": lambda seed: BestOf("best-of-heuristics", heuristics()),
}
_EFFORTS: dict[str, dict[str, float]] = {
    "local-search": {"evaluations": 2_000},
    "annealing": {"evaluations": 20_000, "hot": 0.05, "cold": 0.001},
    "policy-search": {"evaluations": 500, "hot": 0.004, "cold": 0.0005},
}
"""Schedulers that search, with what they spend by default."""


def scheduler_names() -> tuple[str, ...]:
    """Return the names that can be made; `single:DEVICE` stands for one name per device."""
    searches = [name for name in _EFFORTS if name != "policy-search"]
    return ("single:DEVICE", *_MAKERS, *searches, "optimal", "policy", "policy-search", *KINDS)


def make_scheduler(
    name: str,
    *,
    seed: int = 0,
    policy: Path | None = None,
    budget_us: float | None = None,
    evaluations: int | None = None,
) -> Scheduler:
    """Return the scheduler called `name`.

    NAME+merge is NAME whose tasks are merged into launches; NAME+cache is NAME that is asked once
    for all graphs of one content. `module:Name` and `file.py:Name` are schedulers of your own: a
    class, or a function that returns one, called without arguments.

    `policy`: the checkpoint folder that `policy`, `policy-search`, `dqn` or `policy-value` plays;
    the first two play the shipped one without. `budget_us`, `evaluations`: what a scheduler that
    searches may spend on a decision: time, or a number of plans (repeatable); the others take no
    notice. Raises SchedulerError for a name that is unknown, CheckpointError for a checkpoint that
    cannot be used.
    """

    def make(inner: str) -> Scheduler:
        return make_scheduler(
            inner, seed=seed, policy=policy, budget_us=budget_us, evaluations=evaluations
        )

    for what, value in (("budget_us", budget_us), ("evaluations", evaluations)):
        if value is not None and not value > 0:
            raise SchedulerError(f"{what} is {value}; it must be above 0")
    if name.endswith(caching.SUFFIX):
        return caching.Caching(make(name.removesuffix(caching.SUFFIX)))
    if name.endswith(SUFFIX):
        return Merging(make(name.removesuffix(SUFFIX)))
    if name in _EFFORTS:
        return _make_search(name, seed, policy, budget_us, evaluations)
    if name == "optimal":
        return _make_optimal(seed, budget_us, evaluations)
    if name.startswith("single:"):
        return SingleDevice(_device_name(name))
    if name == "policy":
        return _make_policy(policy, seed)
    if name in KINDS:
        return _make_paper_agent(name, policy)
    if is_place(name):
        return _own(name)
    if name not in _MAKERS:
        remedy = did_you_mean(name, scheduler_names())
        raise SchedulerError(f"no scheduler is named {name!r}; {remedy}")
    return _MAKERS[name](seed)


def _own(place: str) -> Scheduler:
    made = find(place, SchedulerError)
    if callable(made):
        try:
            inspect.signature(made).bind()
        except TypeError as error:
            raise SchedulerError(
                f"{place} cannot be called without arguments: {error}; name a function that returns"
                " your scheduler"
            ) from error
        made = made()
    if not isinstance(made, Scheduler):
        kind = type(made).__qualname__
        raise SchedulerError(
            f"{place} gives {kind}, no scheduler; derive yours from dynpartition.Scheduler"
        )
    return made


def _make_search(
    name: str,
    seed: int,
    policy: Path | None,
    budget_us: float | None,
    evaluations: int | None,
) -> Search:
    from dynpartition.agent.searching import Effort, Search  # needs numba

    usual = _EFFORTS[name]
    effort = Effort(
        evaluations=int(usual["evaluations"] if evaluations is None else evaluations),
        budget_us=budget_us,
        hot=usual.get("hot", 0.0),
        cold=usual.get("cold", 0.0),
    )
    if name != "policy-search":
        return Search(name, heuristics(), effort, seed)
    from dynpartition.agent.policy_search import PolicyStarts

    starts = PolicyStarts(PolicyScheduler.load(policy).policy)
    return Search(name, (Heft(), Lookahead()), effort, seed, starts)


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


def _make_optimal(seed: int, budget_us: float | None, evaluations: int | None) -> Scheduler:
    from dynpartition.agent.optimal import Optimal

    time_s = None if budget_us is None else budget_us / 1e6
    return Optimal(_make_search("annealing", seed, None, None, evaluations), time_s)


def _device_name(name: str) -> str:
    device = name.removeprefix("single:")
    if not device or device == "DEVICE":
        raise SchedulerError(
            f"scheduler {name!r} names no device; write single:cpu:0, for instance"
        )
    return device


def _make_policy(folder: Path | None, seed: int) -> Scheduler:
    """Return what a checkpoint deploys: its policy, or the baseline that its guard prefers."""
    from dynpartition.agent.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(folder or SHIPPED)
    guard = checkpoint.training.get("guard")
    plays = guard.get("plays", "policy") if isinstance(guard, dict) else "policy"
    if plays in ("policy", "policy+merge"):
        played = PolicyScheduler(checkpoint.policy)
        return played if plays == "policy" else Merging(played)
    if not isinstance(plays, str) or plays.partition("+")[0] not in _MAKERS:
        raise CheckpointError(
            f"{folder}: its guard plays {plays!r}, which is no baseline; fine-tune again"
        )
    return make_scheduler(plays, seed=seed)


def _make_paper_agent(name: str, folder: Path | None) -> Scheduler:
    if folder is None:
        raise SchedulerError(
            f"scheduler {name!r} needs a checkpoint; give its folder with --policy"
        )
    from dynpartition.agent.paper.agent import PaperScheduler  # needs torch

    return PaperScheduler.load(folder, name)
