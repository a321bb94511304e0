"""Training an agent of the paper into one folder, as `train_into` does for the policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dynpartition.agent.paper.config import DEFECTS, AgentKind, PaperConfig
from dynpartition.cli.training import CHECKPOINT, noting
from dynpartition.formats import writing

if TYPE_CHECKING:
    from dynpartition.agent.paper.checkpoint import PaperCheckpoint
    from dynpartition.agent.paper.train import PaperResult
    from dynpartition.contract import Backend, Workload


def paper_config(kind: AgentKind, seconds: float, seed: int, defects: str | None) -> PaperConfig:
    """Return the configuration; TrainingError for a defect that does not exist."""
    named = DEFECTS if defects == "all" else [name.strip() for name in (defects or "").split(",")]
    kept = tuple(name for name in named if name)
    return PaperConfig(kind=kind, seconds=seconds, seed=seed, defects=kept)


def train_paper_into(
    folder: Path,
    backend: Backend,
    inputs: tuple[Sequence[Workload], Sequence[Workload]],
    config: PaperConfig,
    *,
    resume: bool = False,
    track: Sequence[str] = (),
) -> PaperResult:
    """Train on the first, choose by the second inputs; `resume`: from the folder's checkpoint.

    `track`: where metrics go besides, as for `train_into`.
    """
    from dynpartition.agent.paper.checkpoint import load_paper_checkpoint, save_paper_checkpoint
    from dynpartition.agent.paper.train import train_paper_agent

    start = load_paper_checkpoint(folder / CHECKPOINT) if resume else None

    def keep(checkpoint: PaperCheckpoint) -> None:
        with writing(folder / CHECKPOINT):
            save_paper_checkpoint(folder / CHECKPOINT, checkpoint)

    with noting(folder, config.seconds, going_on=resume, track=track) as note:
        result = train_paper_agent(
            backend,
            inputs[0],
            config,
            start=start,
            validation=inputs[1],
            on_update=note,
            on_checkpoint=keep,
        )
        keep(result.checkpoint)
    return result
