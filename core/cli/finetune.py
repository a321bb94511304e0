"""`dynpartition finetune`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dynpartition.cli.local import check_cells, open_hardware
from dynpartition.cli.options import ModelVerb, check_seconds
from dynpartition.cli.training import describe_training, train_into
from dynpartition.formats import find_profile, write_json

if TYPE_CHECKING:
    from dynpartition.agent.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Finetune(ModelVerb):
    """Train a policy on with real runs on this machine's devices."""

    profile: str
    """Profile file of this machine, as `calibrate` wrote it; it names the devices."""
    policy: Path
    """Checkpoint folder to start from, as `pretrain` wrote it."""
    out: Path
    """Folder for `checkpoint/` and `metrics.jsonl`."""
    seconds: float = 30.0
    """How long to train."""
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where metrics go besides metrics.jsonl: tensorboard, wandb, into --out."""

    def execute(self) -> None:
        """Fine-tune."""
        from dynpartition.agent.checkpoint import load_checkpoint
        from dynpartition.models.splitting import select

        check_seconds("--seconds", self.seconds)
        start = load_checkpoint(self.policy)
        profile = find_profile(self.profile)
        model = self.load_model()
        check_cells(model, profile, f"--profile {self.profile}")
        inputs = self.load_inputs(model)
        parts = (select(inputs, "train"), select(inputs, "validation")[:VALIDATION_INPUTS])
        with open_hardware(model, profile) as backend:
            config = hardware_config(self.seconds, self.seed)
            result = train_into(
                self.out, backend, parts, start, config, guards=True, track=self.track
            )
        if self.json:
            write_json(self.json, {"history": result.history})
        print(describe_training(result))


VALIDATION_INPUTS = 12
"""How many inputs choose the best policy: on hardware every one costs real runs."""


def hardware_config(seconds: float, seed: int) -> TrainConfig:
    """Return the training configuration for real runs: few of them per update, gentle steps."""
    from dynpartition.agent.config import TrainConfig

    return TrainConfig(
        seconds=seconds,
        seed=seed,
        groups=2,
        rollouts=8,
        learning_rate=5e-4,
        keep="last",
        baseline_repeats=5,
    )
