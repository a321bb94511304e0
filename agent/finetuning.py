"""Fine-tuning on the machine itself, in three stages of which each needs what was learned before.

1. `correct`, the cost table: runs of random plans, of the policy's and of the best heuristic's
   correct the profile.
2. `rehearse`: the policy is trained on in a simulator of the corrected profile, which costs no
   runs. What comes of it is kept if it is better there on inputs that it was not trained on.
3. `practise`: rollouts on the machine, compared with each other and with the best heuristic's plan
   of the same input, which run in turn.

Everything random depends on the seed and on the number of the run or update alone, and what was
learned is in the checkpoints: a run that is cut and resumed comes to the same policy as an uncut
one where the machine repeats itself, as a simulator does.

Whoever is faster in the end is deployed: see `dynpartition.agent.guard`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, log
from typing import Protocol

import numpy as np

from dynpartition.agent.checkpoint import Checkpoint
from dynpartition.agent.config import TrainConfig
from dynpartition.agent.heuristics import Random
from dynpartition.agent.lessons import Inputs
from dynpartition.agent.policy import Policy, PolicyScheduler
from dynpartition.agent.registry import make_scheduler
from dynpartition.agent.rollout import RIVAL_EVERY, Player
from dynpartition.agent.train import Metrics, train, train_on
from dynpartition.belief import Believing
from dynpartition.contract import (
    INFEASIBLE_NS,
    Backend,
    Outcome,
    Scheduler,
    Workload,
    run,
)
from dynpartition.errors import CheckpointError, OutOfDeviceMemory, TrainingError
from dynpartition.formats import profile_bytes
from dynpartition.profile import Profile
from dynpartition.sim.backend import SimBackend

STAGES = ("correct", "rehearse", "practise", "done")
RIVAL = "best-of-heuristics"
"""Whose plan rollouts are compared with."""
RUNS = "runs.json"
"""File of a checkpoint with the runs that have corrected the profile."""
NOTE = "finetune"
"""Where a checkpoint says how far it is."""
CORRECT_EVERY = 8
"""Runs between two corrections, and between two checkpoints of the first stage."""
PLAYERS = ("random", "policy", RIVAL, "random")
"""Whose plans the first stage runs in turn; the policy and its rival on the same input. Random ones
show what plans that look good do not touch."""
_ALONE, _PAIR, _UPDATE = range(3)
"""What is drawn for: a random plan, a pair of plans of one input, an update."""
GENTLE = TrainConfig(learning_rate=1e-4, entropy=0.01, validate_every=50, keep="last")
"""Settings of the last two stages: what has been learned elsewhere is not thrown away."""
GROUPS, ROLLOUTS = 2, 8
"""Inputs per update of the last stage, and rollouts of each: few, for every one is a run."""


class Corrector(Protocol):
    """A profile that runs of its machine correct."""

    def note(self, workload: Workload, outcome: Outcome) -> None:
        """Learn from a run."""

    def corrected(self) -> Profile:
        """Return the profile as the runs so far say."""

    def dump(self) -> bytes:
        """Return the runs so far as the content of a file."""

    def restore(self, content: bytes) -> None:
        """Take in the runs of such a file, as if they had just been noted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig:
    """How much fine-tuning may do."""

    episodes: int = 200
    """Runs on the machine; what the guard measures afterwards comes on top."""
    correcting: int = 80
    """How many of them correct the profile."""
    rehearsals: int = 50_000
    """Simulated rollouts of the rehearsal."""
    seconds: float | None = None
    """Time limit of each stage; None: no limit, as resuming to the same weights needs it."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("episodes", "correcting", "rehearsals", "seconds", "seed"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise TrainingError(f"{name} is {value}; it must be at least 0")
        if self.correcting > self.episodes:
            raise TrainingError(
                f"correcting is {self.correcting}, but there are {self.episodes} episodes in all;"
                " give more episodes"
            )


@dataclass
class Finetuned:
    """What fine-tuning came to."""

    policy: Policy
    profile: Profile
    """The corrected profile, on which the policy is to decide."""
    checkpoint: Checkpoint
    """The policy, with the runs that have corrected the profile."""
    history: list[Metrics]
    """One entry per 8 runs of the first stage, and per update of the last: `stage` (1 or 3),
    `episodes` (runs so far), `seconds`, `reward` (−log of the makespan divided by the best
    heuristic's on the same input)."""


def finetune(
    backend: Backend,
    workloads: Sequence[Workload],
    start: Policy,
    corrector: Corrector,
    config: FinetuneConfig,
    *,
    validation: Sequence[Workload] = (),
    resume: Checkpoint | None = None,
    on_update: Callable[[Metrics], None] = lambda metrics: None,
    on_checkpoint: Callable[[Checkpoint], None] = lambda checkpoint: None,
) -> Finetuned:
    """Fine-tune `start` on `workloads`; `corrector` begins with the profile of `backend`.

    `validation`: inputs that tell whether the rehearsal was worth it; default: the workloads.
    `resume`: a checkpoint that an earlier call with the same arguments has given to
    `on_checkpoint`; CheckpointError for any other.
    """
    if not workloads:
        raise TrainingError("fine-tuning needs at least one workload")
    tuning = _Tuning(backend, workloads, validation or workloads, corrector, config)
    tuning.origin = _origin(backend.profile, start, config)
    tuning.on_update, tuning.on_checkpoint = on_update, on_checkpoint
    return tuning.run(start, resume)


class _Tuning:
    """One call of `finetune`."""

    origin: str
    on_update: Callable[[Metrics], None]
    on_checkpoint: Callable[[Checkpoint], None]

    def __init__(
        self,
        backend: Backend,
        workloads: Sequence[Workload],
        validation: Sequence[Workload],
        corrector: Corrector,
        config: FinetuneConfig,
    ) -> None:
        self.backend, self.workloads, self.validation = backend, workloads, validation
        self.corrector, self.config = corrector, config
        self.history: list[Metrics] = []
        self.runs_file = b""
        self.begun_s = time.monotonic()

    def run(self, start: Policy, resume: Checkpoint | None) -> Finetuned:
        """Go through the stages that are left."""
        stage, n_runs, cut = STAGES[0], 0, None
        policy = start
        if resume is not None:
            stage, n_runs = _place(resume, self.origin)
            self.runs_file = resume.files.get(RUNS, b"")
            self.corrector.restore(self.runs_file)
            policy = resume.policy
            cut = resume if "updates" in resume.training else None
        if stage == "correct":
            self._correct(start, n_runs)
            stage = "rehearse"
            self._keep(Checkpoint(start), stage)
        profile = self.corrector.corrected()
        if stage == "rehearse":
            policy, cut = self._rehearse(profile, start, cut), None
            stage = "practise"
            self._keep(Checkpoint(policy), stage)
        if stage == "practise":
            policy = self._practise(profile, policy, cut)
            resume = self._keep(Checkpoint(policy), "done")
        assert resume is not None
        return Finetuned(policy, profile, resume, self.history)

    def _correct(self, start: Policy, n_runs: int) -> None:
        """Run plans that the profile is corrected by, from run `n_runs` on."""
        players = {"policy": PolicyScheduler(start), RIVAL: make_scheduler(RIVAL)}
        took_ns: dict[str, int] = {}
        rewards: list[float] = []
        known: Backend = self.backend
        for number in range(n_runs, self.config.correcting):
            if number % CORRECT_EVERY == 0:
                known = Believing(self.backend, self.corrector.corrected())
            player = PLAYERS[number % len(PLAYERS)]
            alone = player == "random"
            rng = self._rng(number, _ALONE) if alone else self._rng(number // len(PLAYERS), _PAIR)
            workload = self.workloads[int(rng.integers(len(self.workloads)))]
            scheduler = players.get(player) or Random(int(rng.integers(1 << 31)))
            took_ns[player] = self._learn_from(known, workload, scheduler)
            if player == RIVAL:
                rewards.append(log(took_ns[RIVAL] / took_ns["policy"]))
            if (number + 1) % CORRECT_EVERY == 0:
                self._note(1, number + 1, rewards)
                self.runs_file, rewards = self.corrector.dump(), []
                self._keep(Checkpoint(start), "correct", number + 1)
                if self._is_late():
                    break
        self.runs_file = self.corrector.dump()

    def _learn_from(self, known: Backend, workload: Workload, scheduler: Scheduler) -> int:
        """Run a workload and learn from it; return its makespan. Full memories teach nothing."""
        try:
            outcome = run(known, workload, scheduler)
        except OutOfDeviceMemory:
            return INFEASIBLE_NS
        self.corrector.note(workload, outcome)
        return max(1, outcome.trace.makespan_ns)

    def _rehearse(self, profile: Profile, start: Policy, cut: Checkpoint | None) -> Policy:
        """Return the better of the policy and what it becomes in the corrected simulator."""
        simulator = SimBackend(profile)
        config = replace(
            GENTLE,
            seconds=self.config.seconds,
            episodes=self.config.rehearsals,
            seed=self.config.seed,
            learning_rate=2e-3,
            resume=cut is not None,
        )
        trained = train(
            *(simulator, self.workloads, cut or start, config),
            validation=self.validation,
            on_checkpoint=self._keeper("rehearse"),
        )
        judge = Player(simulator)
        before, after = (
            float(judge.greedy(policy, self.validation).mean())
            for policy in (start, trained.policy)
        )
        return trained.policy if after > before else start

    def _practise(self, profile: Profile, policy: Policy, cut: Checkpoint | None) -> Policy:
        """Return what the policy becomes by rollouts on the machine."""
        rollouts = policy.n_styles * max(2, ROLLOUTS // policy.n_styles)
        runs_each = GROUPS * (rollouts + ceil(rollouts / RIVAL_EVERY))
        n_updates = (self.config.episodes - self.config.correcting) // runs_each
        player = Player(Believing(self.backend, profile), rival=make_scheduler(RIVAL))
        config = replace(
            GENTLE,
            seconds=self.config.seconds,
            episodes=n_updates * GROUPS * rollouts,
            seed=self.config.seed,
            groups=GROUPS,
            rollouts=ROLLOUTS,
            resume=cut is not None,
        )

        def draw(update: int) -> list[int]:
            chosen = self._rng(update, _UPDATE).choice(len(self.workloads), size=GROUPS)
            numbers: list[int] = chosen.tolist()
            return numbers

        def note(metrics: Metrics) -> None:
            n_runs = self.config.correcting + int(metrics["update"]) * runs_each
            self._note(3, n_runs, [metrics["reward"]])

        return train_on(
            *(Inputs(player, self.workloads, draw), (), cut or policy, config),
            on_update=note,
            on_checkpoint=self._keeper("practise"),
        ).policy

    def _rng(self, number: int, purpose: int) -> np.random.Generator:
        """Return the generator of a run or update: what happened before changes nothing."""
        return np.random.default_rng(np.random.SeedSequence([self.config.seed, number, 7, purpose]))

    def _is_late(self) -> bool:
        limit_s = self.config.seconds
        return limit_s is not None and time.monotonic() - self.begun_s > limit_s

    def _note(self, stage: int, n_runs: int, rewards: Sequence[float]) -> None:
        seconds = round(time.monotonic() - self.begun_s, 3)
        reward = float(np.mean(rewards))
        metrics = {"stage": stage, "episodes": n_runs, "seconds": seconds, "reward": reward}
        self.history.append(metrics)
        self.on_update(metrics)

    def _keeper(self, stage: str) -> Callable[[Checkpoint], None]:
        def keep(checkpoint: Checkpoint) -> None:
            self._keep(checkpoint, stage)

        return keep

    def _keep(self, checkpoint: Checkpoint, stage: str, n_runs: int = 0) -> Checkpoint:
        """Hand out, and return, a checkpoint that can be resumed from in that stage."""
        note = {"stage": stage, "runs": n_runs, "of": self.origin}
        training = {**checkpoint.training, NOTE: note}
        kept = replace(checkpoint, training=training, files={RUNS: self.runs_file})
        self.on_checkpoint(kept)
        return kept


def _origin(profile: Profile, start: Policy, config: FinetuneConfig) -> str:
    """Return what equal profiles, policies and settings have in common."""
    content = (profile_bytes(profile), start.flat.tobytes(), repr(config).encode())
    return hashlib.sha256(b"|".join(content)).hexdigest()[:16]


def _place(checkpoint: Checkpoint, origin: str) -> tuple[str, int]:
    """Return the stage that a checkpoint is of, and the runs of the first stage."""
    note = checkpoint.training.get(NOTE)
    if not isinstance(note, dict) or note.get("stage") not in STAGES:
        raise CheckpointError(
            "the checkpoint to resume is none of a fine-tuning; begin anew in another folder"
        )
    if note.get("of") != origin:
        raise CheckpointError(
            "the fine-tuning to resume began with another profile, policy or other settings; give"
            " the same, or begin anew in another folder"
        )
    n_runs = note.get("runs")
    return str(note["stage"]), n_runs if isinstance(n_runs, int) else 0
