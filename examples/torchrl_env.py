"""TorchRL learns on the environment (extra `torchrl`): an actor with masked choices, REINFORCE."""

import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.envs import DTypeCastTransform, TransformedEnv
from torchrl.envs.libs.gym import GymWrapper
from torchrl.modules import MaskedCategorical, ProbabilisticActor

from dynpartition.agent.env import PlacementEnv
from dynpartition.formats import load_shipped
from dynpartition.interop.padded_env import PaddedPlacement
from dynpartition.sim import SimBackend

torch.manual_seed(0)
backend = SimBackend(load_shipped("synthetic-cpu-2gpu"))
padded = PaddedPlacement(PlacementEnv(backend, max_ready=4))
env = GymWrapper(padded, categorical_action_encoding=True)
env = TransformedEnv(env, DTypeCastTransform(torch.int8, torch.bool, in_keys=["mask"]))
env.set_seed(0)

width, n_actions = env.observation_spec["candidates"].shape[-1], env.action_spec.n
scores = nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, n_actions))
actor = ProbabilisticActor(
    TensorDictModule(scores, in_keys=["candidates"], out_keys=["logits"]),
    in_keys={"logits": "logits", "mask": "mask"},
    distribution_class=MaskedCategorical,
    spec=env.action_spec,
    return_log_prob=True,
)
optimizer = torch.optim.Adam(actor.parameters(), lr=1e-3)
for _ in range(3):
    with torch.no_grad():
        episodes = [env.rollout(200, actor) for _ in range(8)]
    returns = torch.stack([episode["next", "reward"].sum() for episode in episodes])
    advantages = returns - returns.mean()
    log_probs = torch.stack([actor.get_dist(e).log_prob(e["action"]).sum() for e in episodes])
    loss = -(advantages * log_probs).mean()  # REINFORCE
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

ended = [bool(episode["next", "terminated"][-1]) for episode in episodes]
print("every episode ended with everything placed:", all(ended))
print("no choice was illegal:", all((e["next", "reward"][:-1] == 0).all() for e in episodes))
print("the loss has a gradient:", bool(scores[0].weight.grad.abs().sum() > 0))
