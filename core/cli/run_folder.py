"""Run folders: what `quickstart` leaves behind, read strictly, any part of it missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from dynpartition.cli.timeline import Run
from dynpartition.errors import FileFormatError, RunFolderError
from dynpartition.formats import in_file, read_graph, read_profile, read_trace
from dynpartition.formats.fields import Amount, Record
from dynpartition.formats.files import read_bytes
from dynpartition.formats.places import explain
from dynpartition.formats.strict import decode
from dynpartition.graph import TaskGraph
from dynpartition.profile import Profile
from dynpartition.trace import Trace

T = TypeVar("T")
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Reward = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]
StageStatus = Literal["done", "running", "interrupted", "failed", "skipped"]

# Unknown fields are let through: a later release may tell more about a run.


class Stage(Record, forbid_unknown_fields=False):
    """One stage of a run and how it went."""

    name: str
    status: StageStatus
    seconds: NotNegative | None = None


class RunInfo(
    Record, tag_field="format", tag="dynpartition-run", kw_only=True, forbid_unknown_fields=False
):
    """What was run: `run.json`."""

    version: Literal[1]
    command: tuple[str, ...] = ()
    seed: int | None = None
    model: dict[str, object] = msgspec.field(default_factory=dict)
    devices: str = ""
    started: str = ""
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    stages: tuple[Stage, ...] = ()


class Metric(Record, forbid_unknown_fields=False):
    """One line of a learning curve. Rewards are −log(makespan / best single device).

    None where it was no number: what a training that has diverged writes.
    """

    episodes: Amount
    seconds: NotNegative
    reward: Reward | None
    validation: Reward | None = None


class Case(Record, forbid_unknown_fields=False):
    """One plan, predicted and measured."""

    input: str | int
    scheduler: str
    simulated_ns: Amount
    measured_ns: Amount
    half_error: float | None = None


class Validation(Record, forbid_unknown_fields=False):
    """Simulator against machine: `validation.json`. Errors are shares: 0.02 is 2 %."""

    cases: tuple[Case, ...]
    mape: float | None = None
    p95: float | None = None
    worst: float | None = None
    bias: float | None = None
    noise: float | None = None
    tau: float | None = None
    regret: float | None = None
    optimism: float | None = None
    conclusive: float | None = None
    verdict: str | None = None


class Row(Record, forbid_unknown_fields=False):
    """One scheduler of the evaluation; below 1, a ratio to `best-single` is faster.

    `mean_ms`, its interval and `ratio_to_best_single` include the decision; `makespan_ms`,
    `run_ratio` and `simulated_mean_ms` do not.
    """

    scheduler: str
    mean_ms: NotNegative
    ci_low_ms: NotNegative | None = None
    ci_high_ms: NotNegative | None = None
    decision_ms: NotNegative | None = None
    ratio_to_best_single: NotNegative | None = None
    makespan_ms: NotNegative | None = None
    run_ratio: NotNegative | None = None
    simulated_mean_ms: NotNegative | None = None


class Evaluation(Record, forbid_unknown_fields=False):
    """All schedulers on the same inputs: `evaluation.json`."""

    rows: tuple[Row, ...]
    inputs: int | str | None = None
    device_note: str | None = None


@dataclass(frozen=True)
class RunFolder:
    """Everything that a run folder holds; None: not there."""

    name: str
    run: RunInfo | None = None
    profile: Profile | None = None
    pretrain: tuple[Metric, ...] | None = None
    finetune: tuple[Metric, ...] | None = None
    validation: Validation | None = None
    evaluation: Evaluation | None = None
    graph: TaskGraph | None = None
    simulated: Trace | None = None
    real: Trace | None = None
    missing: tuple[str, ...] = field(default=())
    """Files that are not there, relative to the folder."""

    @property
    def runs(self) -> tuple[Run, ...]:
        """The traces that are there, with the names that the page gives them."""
        traces = {"simulated": self.simulated, "real": self.real}
        host = "" if self.profile is None else self.profile.cluster.host
        return tuple(Run(name, trace, host) for name, trace in traces.items() if trace is not None)


def read_run_folder(folder: Path) -> RunFolder:
    """Return the content of a run folder.

    Raises RunFolderError when it is no folder or holds nothing of a run, and FileFormatError,
    GraphError or ProfileError for a file that is there but malformed.
    """
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: no such folder; give the folder of a run")
    part = _Parts(folder)
    graph = part("timeline/graph.json", read_graph)
    found = RunFolder(
        name=folder.resolve().name,
        run=part("run.json", _read_info),
        profile=part("profile.json", read_profile),
        pretrain=part("pretrain/metrics.jsonl", _read_metrics),
        finetune=part("finetune/metrics.jsonl", _read_metrics),
        validation=part("validation.json", lambda path: _read_plain(path, Validation)),
        evaluation=part("evaluation.json", lambda path: _read_plain(path, Evaluation)),
        graph=graph,
        simulated=part("timeline/simulated.json", lambda path: _read_trace(path, graph)),
        real=part("timeline/real.json", lambda path: _read_trace(path, graph)),
        missing=tuple(part.missing),
    )
    if found == RunFolder(found.name, missing=found.missing):
        raise RunFolderError(f"{folder}: holds no file of a run; give a folder that a run wrote")
    return found


class _Parts:
    """Reads the files of a folder that are there, and remembers those that are not."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.missing: list[str] = []

    def __call__(self, name: str, parse: Callable[[Path], T]) -> T | None:
        path = self._folder / name
        if path.exists():
            return parse(path)
        self.missing.append(name)
        return None


def _read_trace(path: Path, graph: TaskGraph | None) -> Trace | None:
    return None if graph is None else read_trace(path, graph)


def _read_info(path: Path) -> RunInfo:
    with in_file(path):
        return decode(read_bytes(path), RunInfo)


def _read_plain(path: Path, kind: type[T]) -> T:
    with in_file(path):
        return _decode_plain(read_bytes(path), kind)


def _read_metrics(path: Path) -> tuple[Metric, ...]:
    # A run that is stopped while it writes leaves a torn line: that one does not count.
    *lines, torn = path.read_bytes().split(b"\n")
    lines += [torn] if torn.endswith(b"}") else []
    rows = []
    for number, line in enumerate(lines, start=1):
        with in_file(Path(f"{path}:{number}")):
            rows.append(_decode_plain(line, Metric))
    return tuple(rows)


def _decode_plain(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise FileFormatError(explain(error, data, kind)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FileFormatError(f"malformed JSON: {error}; write the file again") from None
