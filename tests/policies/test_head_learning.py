"""Every action head can be cloned and then improved, with a critic and without one."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.algorithms.test_algorithms import RED, Here, learner_for, made, success
from tests.helpers import SPARSE, composed, fit
from vla_rl.curricula import uniform
from vla_rl.demos.chunks import ChunkDataset
from vla_rl.envs import point_reach
from vla_rl.episode_end import EpisodeEnd
from vla_rl.policies import tiny
from vla_rl.rollout.slots import SlotPool
from vla_rl.sft import SFTConfig
from vla_rl.train import Loop
from vla_rl.train_config import TrainConfig

SEED = 1
PPO = {"critic_warmup": 1, "ppo_epochs": 3, "ppo_mini_batch_size": 256}
ITERATIONS = {"grpo": 12, "loop": 10, "ppo": 14}

# Settings, how far the clone's actions are made to drift, and learning rates (the second of PPO).
# Exploration is wide, as for the Gaussian head in test_algorithms.
HEADS = {
    "laplace": ({"head": "laplace", "std": 0.1}, 0.5, (5e-4, 2e-3)),
    "flow-sde": ({"head": "flow_sde", "noise_level": 0.8}, 0.3, (2e-4, 3e-4)),
    "flow-one": (
        {"head": "flow_sde", "noise_level": 0.8, "stochastic": "one"},
        0.3,
        (3e-4, 5e-4),
    ),
    "flow-noise": ({"head": "flow_noise", "noise_std": (0.2, 0.5)}, 0.3, (2e-4, 3e-4)),
}


@pytest.fixture(scope="module", params=HEADS)
def clone(request):
    """Half as good as the expert, and then made to drift; its success, and learning rates."""
    settings, drift, rates = HEADS[request.param]
    torch.manual_seed(SEED)
    config = composed(tiny.Config, chunk=2, features=256, hidden=(128, 128), **settings)
    policy = tiny.Policy(config, point_reach.spaces(point_reach.Settings()))
    pool = SlotPool("point_reach", point_reach.Settings())
    data = ChunkDataset(
        [pool.record(spec) for spec in RED.resolve().specs("demo", 300)], policy.chunk
    )
    fit(policy, data, SFTConfig(steps=400, image_shift=0), SEED)
    assert success(policy) > 0.35
    network = policy.head.trunk if request.param == "laplace" else policy.head.denoiser
    with torch.no_grad():
        network[-1].bias += drift * torch.tensor([1.0, -1.0, 1.0, -1.0])
    before = success(policy)
    assert before < 0.2
    return policy, before, rates


# From at most .2 before; with this seed every run gains at least .1.
@pytest.mark.parametrize("name", ["grpo", "loop", "ppo"])
def test_every_head_improves(name, clone):
    weak, before, rates = clone
    policy = copy.deepcopy(weak)
    algorithm = made(name, **PPO) if name == "ppo" else made(name)
    iterations, lr = ITERATIONS[name], rates[name == "ppo"]
    learner = learner_for(algorithm, policy, lr=lr, std_lr=lr, warmup_steps=0)
    starts = uniform.Curriculum(RED.resolve().tasks, SEED)
    config = TrainConfig(iterations=iterations)
    end = EpisodeEnd(algorithm.discount)
    run = Loop(Here(), learner, algorithm, starts, SPARSE, end, RED.resolve().tasks, config, SEED)
    for _ in range(iterations):
        run.step()
    after = success(policy)
    assert after > before + 0.1, (before, after)
