"""Writing a run folder, so that it is readable at any moment, also after Ctrl-C or a kill.

    run.json                what was run, with which versions, and how far each stage came
    profile.json            dynpartition-profile of the devices
    pretrain/ finetune/     checkpoint/ and metrics.jsonl
    validation.json         simulated against measured makespans
    evaluation.json         every scheduler on held-out inputs
    timeline/               graph, plan, simulated trace and real trace of one input
    report.html             all of it as one offline page

Every file but the growing metrics is written beside its place and renamed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from dynpartition.cli.provenance import library_versions
from dynpartition.cli.run_folder import RunInfo, Stage, StageStatus
from dynpartition.cli.training import make_folder
from dynpartition.errors import RunFolderError
from dynpartition.formats import write_bytes, write_json


class RunWriter:
    """A run folder that is being filled."""

    def __init__(self, path: Path, info: RunInfo) -> None:
        self.path = path
        self._info = info
        self._stages: dict[str, Stage] = {}
        self._save()

    @staticmethod
    def create(
        path: Path, *, command: Sequence[str], seed: int, model: Mapping[str, object], devices: str
    ) -> RunWriter:
        """Make the folder, or reuse an empty one.

        Raises RunFolderError when it holds files already, OutputError when it cannot be made.
        """
        make_folder(path)
        if any(path.iterdir()):
            raise RunFolderError(f"{path} is not empty; name another folder with --run")
        info = RunInfo(
            version=1,
            command=tuple(command),
            seed=seed,
            model=dict(model),
            devices=devices,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=library_versions(),
        )
        return RunWriter(path, info)

    def write(self, name: str, content: Mapping[str, object]) -> None:
        """Write one JSON file of the run."""
        write_json(self.path / name, content)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Record that a stage runs, and how it ended, whatever happens."""
        started = time.monotonic()
        self._note(name, "running", started)
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)
            self._note(name, "interrupted" if stopped else "failed", started)
            raise
        self._note(name, "done", started)

    def _note(self, name: str, status: StageStatus, started: float) -> None:
        self._stages[name] = Stage(name, status, round(time.monotonic() - started, 1))
        self._save()

    def _save(self) -> None:
        info = msgspec.structs.replace(self._info, stages=tuple(self._stages.values()))
        data = msgspec.json.format(msgspec.json.encode(info), indent=1)
        write_bytes(self.path / "run.json", data + b"\n")
