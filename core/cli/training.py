"""What commands that train share: one training run into one folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from dynpartition.cli.progress import progress_bar
from dynpartition.errors import OutputError
from dynpartition.formats import writing

if TYPE_CHECKING:
    from dynpartition.agent.checkpoint import Checkpoint
    from dynpartition.agent.config import TrainConfig
    from dynpartition.agent.lessons import Crew
    from dynpartition.agent.policy import Policy
    from dynpartition.agent.train import Metrics, TrainResult
    from dynpartition.contract import Backend, Workload

CHECKPOINT, METRICS = "checkpoint", "metrics.jsonl"
"""What a training folder holds."""


def train_into(
    folder: Path,
    backend: Backend,
    inputs: tuple[Sequence[Workload], Sequence[Workload]],
    start: Checkpoint | Policy,
    config: TrainConfig,
    *,
    track: Sequence[str] = (),
    crew: Crew | None = None,
) -> TrainResult:
    """Train on the first, choose by the second inputs; metrics are written as they come.

    `track`: where they go besides, see `dynpartition.interop.tracking`. `crew`: who plays the
    rollouts elsewhere.
    """
    from dynpartition.agent.checkpoint import save_checkpoint
    from dynpartition.agent.train import train

    with noting(folder, config.seconds, track=track) as note:

        def keep(checkpoint: Checkpoint) -> None:
            with writing(folder / CHECKPOINT):
                save_checkpoint(folder / CHECKPOINT, checkpoint)

        result = train(
            backend,
            inputs[0],
            start,
            config,
            validation=inputs[1],
            on_update=note,
            on_checkpoint=keep,
            crew=crew,
        )
        keep(result.checkpoint)
    return result


def pretraining(
    seconds: float | None, seed: int, *, scratch: bool = False, episodes: int | None = None
) -> tuple[Policy, TrainConfig]:
    """Return what training in a simulator starts from, and how: gently from the shipped policy."""
    from dynpartition.agent.checkpoint import load_checkpoint
    from dynpartition.agent.config import TrainConfig
    from dynpartition.agent.policy import SHIPPED, Policy

    config = TrainConfig(seconds=seconds, episodes=episodes, seed=seed)
    if scratch:
        return Policy.untrained(seed), config
    gentle = replace(config, learning_rate=5e-4, entropy=0.01)
    return load_checkpoint(SHIPPED).policy, gentle


@contextmanager
def noting(
    folder: Path, seconds: float | None, *, going_on: bool = False, track: Sequence[str] = ()
) -> Iterator[Callable[[Metrics], None]]:
    """Make the folder; yield what writes one line of metrics, after those there if `going_on`."""
    from dynpartition.interop.tracking import tracking

    make_folder(folder)
    _check_replaceable(folder / CHECKPOINT)
    with (
        tracking(track, folder) as trackers,
        writing(folder / METRICS),
        progress_bar(folder.name) as progress,
        (folder / METRICS).open("a" if going_on else "w", encoding="utf-8") as lines,
    ):

        def note(metrics: Metrics) -> None:
            lines.write(msgspec.json.encode(metrics).decode() + "\n")
            lines.flush()
            for tracker in trackers:
                tracker(metrics)
            if seconds:
                progress(min(1.0, metrics["seconds"] / seconds))

        yield note


def make_folder(folder: Path) -> None:
    """Make a folder for results; OutputError when that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot make the folder {folder}: {reason}; name another") from error


def _check_replaceable(checkpoint: Path) -> None:
    """Raise OutputError rather than replace a folder that is no checkpoint."""
    if checkpoint.exists() and not (checkpoint / "manifest.json").exists():
        raise OutputError(
            f"{checkpoint} is there and no checkpoint of this package; move it away or name"
            " another folder with --out"
        )


class Trained(Protocol):
    """What a training run came to, whatever was trained."""

    best_validation: float
    history: list[Metrics]


def describe_training(result: Trained) -> str:
    """Return one line about a training run."""
    from math import exp

    episodes = int(result.history[-1]["episodes"]) if result.history else 0
    seconds = result.history[-1]["seconds"] if result.history else 0.0
    return (
        f"{episodes} episodes in {seconds:.0f} s; on the validation inputs the best policy takes"
        f" {exp(-result.best_validation):.3f} × the best single device's time"
    )
