"""Optuna tunes how a policy is trained (extra `optuna`): a few short trials in the simulator."""

import optuna

from dynpartition.agent.config import TrainConfig
from dynpartition.agent.policy import Policy
from dynpartition.agent.train import train
from dynpartition.formats import load_shipped
from dynpartition.models import build_model, generate_inputs
from dynpartition.models.splitting import select
from dynpartition.sim import SimBackend

EPISODES, TRIALS = 4000, 4

model = build_model("treelstm")
inputs = generate_inputs(model, 60, seed=0)
learned_on, judged_on = select(inputs, "train"), select(inputs, "validation")
backend = SimBackend(load_shipped("small-cpu"))


def reward(config: TrainConfig) -> float:
    """Return the best reward in validation: −log of the time over that of the best device."""
    start = Policy.untrained(seed=0)
    return train(backend, learned_on, start, config, validation=judged_on).best_validation


def objective(trial: optuna.Trial) -> float:
    config = TrainConfig(
        seconds=None,
        episodes=EPISODES,  # a number of episodes, not seconds: the result can be repeated
        validate_every=10,
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        entropy=trial.suggest_float("entropy", 1e-3, 1e-1, log=True),
    )
    return reward(config)


optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
study.optimize(objective, n_trials=TRIALS)

print(f"{len(study.trials)} trials; tuned {', '.join(sorted(study.best_params))}")
untrained = reward(TrainConfig(seconds=None, episodes=0))
print("better than untrained:", study.best_value > untrained)
