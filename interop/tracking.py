"""Metrics of training to TensorBoard and Weights & Biases, as they come.

A tracker is what `on_update` of a training function gets: it is called with the metrics of every
update, which `metrics.jsonl` of a run folder holds too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dynpartition.closing import Closing
from dynpartition.errors import UsageError, did_you_mean

Metrics = Mapping[str, float]


class Tracker(Closing, ABC):
    """Where metrics go. Close it, or use it in a `with` block."""

    @abstractmethod
    def __call__(self, metrics: Metrics) -> None:
        """Note the metrics of one update; `update` is its number."""

    @abstractmethod
    def close(self) -> None:
        """Write what is still on its way."""


class TensorBoardTracker(Tracker):
    """Writes event files for TensorBoard into `folder` (extra `tensorboard`)."""

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.summary import Writer
        except ImportError as error:
            raise _not_installed("tensorboard") from error
        self._writer = Writer(str(folder))

    def __call__(self, metrics: Metrics) -> None:
        """Add a point to the curve of each metric."""
        step = int(metrics["update"])
        for name, value in metrics.items():
            if name != "update":
                self._writer.add_scalar(f"training/{name}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """Write what is still on its way."""
        self._writer.close()


class WandbTracker(Tracker):
    """Logs to a run of Weights & Biases (extra `wandb`), whose files go into `folder`.

    Whether it needs an account and a network is up to wandb: `WANDB_MODE=offline` needs neither.
    `settings` go to `wandb.init`.
    """

    def __init__(self, folder: Path, *, project: str = "dynpartition", **settings: Any) -> None:
        try:
            import wandb
        except ImportError as error:
            raise _not_installed("wandb") from error
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(project=project, dir=str(folder), **settings)

    def __call__(self, metrics: Metrics) -> None:
        """Log one step."""
        values = {name: value for name, value in metrics.items() if name != "update"}
        self._run.log(values, step=int(metrics["update"]))

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


TRACKERS = {"tensorboard": TensorBoardTracker, "wandb": WandbTracker}
"""By the name that `--track` takes; each writes into a folder of its name."""


@contextmanager
def tracking(names: Sequence[str], folder: Path) -> Iterator[list[Tracker]]:
    """Yield an open tracker for each of the names, which write below `folder`.

    Raises UsageError for names that there are not and where a library is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise UsageError(f"no tracker is named {name!r}; {did_you_mean(name, TRACKERS)}")
    with ExitStack() as stack:
        yield [stack.enter_context(TRACKERS[name](folder / name)) for name in dict.fromkeys(names)]


def _not_installed(extra: str) -> UsageError:
    return UsageError(
        f"the library {extra} is not installed; install it with: pip install"
        f" 'dynpartition[{extra}]'"
    )
