"""`dynpartition pretrain`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dynpartition.cli.local import check_cells
from dynpartition.cli.options import ModelVerb, check_seconds
from dynpartition.cli.training import describe_training, pretraining, train_into
from dynpartition.formats import find_profile, write_json


@dataclass(frozen=True, kw_only=True)
class Pretrain(ModelVerb):
    """Train a policy in the simulator; the folder gets its checkpoint and learning curve."""

    profile: str
    """Profile file, or the name of a shipped profile."""
    out: Path
    """Folder for `checkpoint/` and `metrics.jsonl`."""
    seconds: float = 60.0
    """How long to train."""
    scratch: bool = False
    """Begin with random weights instead of the shipped policy."""

    def execute(self) -> None:
        """Pretrain."""
        from dynpartition.models.splitting import select
        from dynpartition.sim.backend import SimBackend

        check_seconds("--seconds", self.seconds)
        profile = find_profile(self.profile)
        model = self.load_model()
        check_cells(model, profile, f"--profile {self.profile}")
        backend = SimBackend(profile)
        inputs = self.load_inputs(model)
        start, config = pretraining(self.seconds, self.seed, scratch=self.scratch)
        parts = (select(inputs, "train"), select(inputs, "validation"))
        result = train_into(self.out, backend, parts, start, config)
        if self.json:
            write_json(self.json, {"history": result.history})
        print(describe_training(result))
