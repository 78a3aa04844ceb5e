"""LeRobot's Diffusion Policy as an action head whose denoising steps have a likelihood."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from lerobot.policies.diffusion.modeling_diffusion import DiffusionModel
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from vla_rl.action_head import Sample
from vla_rl.functional import diffusion
from vla_rl.functional.density import normal_entropy, normal_logprob
from vla_rl.policies._backbones.backbone import Grid
from vla_rl.policies._heads.config import HeadConfig, Size
from vla_rl.policies._heads.correlated import CorrelatedHead
from vla_rl.policies._lerobot.body import ActionScale, Body
from vla_rl.policies._lerobot.description import Description

SAVED_AS = "diffusion"


def network(about: Description) -> Any:
    """The network as LeRobot makes it.

    Raises:
        ValueError: If weights of its vision backbone cannot be fetched.
    """
    try:
        return DiffusionModel(about.config())
    except OSError as error:
        raise ValueError(f"the pretrained backbone cannot be fetched: {error}") from error


class Chain(NamedTuple):
    """Steps S of a chain, how many of the last ones are scored, and their least deviation."""

    steps: int
    scored: int
    floor: float


class DiffusionHead(CorrelatedHead):
    """Denoises a chunk, and takes the last steps of it for what was decided.

    As in DPPO (Ren et al., 2024, arXiv 2409.00588), every denoising step is a normal law
    (:mod:`vla_rl.functional.diffusion`) whose deviation is at least ``floor``, so that the last
    steps explore too, and ``raw`` holds the samples before and after the last K' of them, of the
    whole horizon in normalised units: ``[B, (K' + 1) * T * A]``. The log-prob of a unit is the sum
    over those steps; what came before them counts as given, as does what is not executed. Greedy
    acting (no keys) starts at 0, the mean of the noise, and follows DDIM without noise; its
    log-prob is the density of that chain.

    The noise has the covariance of :mod:`vla_rl.policies._heads.exploration_noise`, each draw
    with a constant of its
    own over the episode; each scored step is scored by the density of :class:`CorrelatedHead`. A
    network that was trained elsewhere needs ``rho = episode_share = 0``.
    """

    alphas: Tensor  # [S + 1] of the samples of a chain, the last one is 1
    times: Tensor  # [S] timesteps that the network gets

    def __init__(self, config: HeadConfig, size: Size, net: Any, chain: Chain, first: int) -> None:
        super().__init__(config, size.horizon, size.action_dim)
        self.net = net
        self.whole, self.first = net.config.horizon, first
        self.steps, self.scored, self.floor = chain
        self.scored = min(self.scored, self.steps)
        self.actions = ActionScale(size.action_dim)
        net.noise_scheduler.set_timesteps(self.steps)
        times = net.noise_scheduler.timesteps
        alphas = net.noise_scheduler.alphas_cumprod
        self.register_buffer("times", times.long(), persistent=False)
        self.register_buffer("alphas", torch.cat([alphas[times], torch.ones(1)]), persistent=False)

    def forward(self, condition: Tensor, samples: Tensor, steps: Tensor) -> diffusion.Step:
        """The laws of the next samples, from ``[B, T, A]`` at ``steps`` ``[B]`` of the chain."""
        config = self.net.config
        alpha, alpha_next = self.alphas[steps, None, None], self.alphas[steps + 1, None, None]
        said = self.net.unet(samples, self.times[steps], global_cond=condition)
        if config.prediction_type == "epsilon":
            said = diffusion.clean(samples, said, alpha)
        if config.clip_sample:
            said = said.clamp(-config.clip_sample_range, config.clip_sample_range)
        law = diffusion.step(samples, said, alpha, alpha_next)
        return law._replace(std=law.std.clamp(min=self.floor).expand_as(samples))

    def sample(self, context: Tensor, text: Tensor, keys: NDArray[np.int64] | None) -> Sample:
        """Act: with the noise of the rows' keys ``[B, 2]``, or greedily without keys."""
        rows, device = len(context), context.device
        noise, constant = self.noise(keys, context, self.steps + 1, self.whole)
        noise = noise.reshape(rows, -1, self.whole, self.action_dim)
        chain = [noise[:, 0]]
        for step in range(self.steps):
            law = self(context, chain[-1], torch.full((rows,), step, device=device))
            moved = law.mean + law.std * noise[:, step + 1]
            chain.append(law.still if keys is None else moved)
        scored = torch.stack(chain[-self.scored - 1 :], dim=1).flatten(1)
        raw = self.recorded(scored, constant[:, -self.scored :])
        actions = self.actions.restored(chain[-1]).clamp(-1, 1)
        return Sample(raw, self._executed(actions), self.score(context, text, raw)[0])

    def score(self, context: Tensor, text: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density of the scored steps and entropy of their noise, both ``[B, K]``, in nats."""
        rows, scored = len(raw), self.scored
        size = (scored + 1) * self.whole * self.action_dim
        sampled, constant = self.recalled(raw, size, scored)
        chain = sampled.view(rows, scored + 1, self.whole, self.action_dim)
        steps = torch.arange(self.steps - scored, self.steps, device=raw.device)
        law = self(
            context[:, None].expand(-1, scored, -1).flatten(0, 1),
            chain[:, :-1].flatten(0, 1),
            steps.expand(rows, -1).flatten(),
        )
        after = self._scored(chain[:, 1:].flatten(0, 1))
        mean, std = self._scored(law.mean), self._scored(law.std)
        dependence = self.dependence((after - mean) / std, constant)
        logprob = normal_logprob(after, mean, std.log()) + dependence
        entropy = normal_entropy(std.log()) + self.log_width()
        return logprob.sum(1), entropy.sum(1)

    def imitation_loss(
        self,
        context: Tensor,
        text: Tensor,
        actions: Tensor,
        mask: Tensor,
        generator: Generator | None = None,
    ) -> Tensor:
        """The policy's own loss towards ``actions`` ``[B, H, A]`` where ``mask`` ``[B, H]``.

        Mean squared error of the noise (or of the actions, if the network predicts those) at a step
        drawn for every row. Steps of the horizon that are not demonstrated are 0 but for the noise,
        and have no loss. ``generator`` draws steps and noise.
        """
        rows, config = len(actions), self.net.config
        counted = torch.zeros(rows, self.whole, self.action_dim, device=actions.device)
        span = slice(self.first, self.first + self.horizon)
        counted[:, span] = mask[..., None].to(counted.dtype)
        known = torch.zeros_like(counted)
        known[:, span] = torch.where(mask[..., None], self.actions.normalised(actions), 0.0)
        alphas = self.net.noise_scheduler.alphas_cumprod.to(actions.device)
        times = torch.randint(config.num_train_timesteps, (rows,), generator=generator)
        times = times.to(actions.device)
        noise = torch.randn(known.shape, generator=generator).to(actions.device)
        mixed = diffusion.noised(known, noise, alphas[times, None, None])
        said = self.net.unet(mixed, times, global_cond=context)
        target = noise if config.prediction_type == "epsilon" else known
        error: Tensor = ((said - target).square() * counted).sum()
        return error / counted.sum().clamp(min=1)

    def _executed(self, whole: Tensor) -> Tensor:
        return whole[:, self.first : self.first + self.horizon]

    def _scored(self, whole: Tensor) -> Tensor:
        """``[B * K', T, A]`` to what of it is executed, ``[B, K', K]``."""
        return self._executed(whole).reshape(-1, self.scored, self.units)


class DiffusionBody(Body):
    """The encoder of images, and the U-Net behind it.

    It keeps no history: where the policy was trained on several observations, it gets the present
    one as often.
    """

    def __init__(
        self, about: Description, net: Any, head: HeadConfig, size: Size, chain: Chain
    ) -> None:
        super().__init__()
        config = about.config()
        self.history = config.n_obs_steps
        room = config.horizon - (self.history - 1)
        if size.horizon > room:
            raise ValueError(
                f"chunk {size.horizon} is longer than what this Diffusion Policy plans ahead, "
                f"{room}"
            )
        if chain.steps > config.num_train_timesteps:
            raise ValueError(
                f"denoising_steps {chain.steps} is more than the policy was trained "
                f"with, {config.num_train_timesteps}"
            )
        self.image_size = tuple(next(iter(config.image_features.values())).shape[1:])
        self.vision = net.rgb_encoder
        del net.rgb_encoder
        self.separate = config.use_separate_rgb_encoder_per_camera
        first = self.vision[0] if self.separate else self.vision
        self.grid = Grid(len(config.image_features), 1, first.feature_dim)
        self.head = DiffusionHead(head, size, net, chain, self.history - 1)

    def look(self, images: Tensor) -> Tensor:
        """``[B, V, 3, h, w]`` to ``[B, V, 1, C]``."""
        if self.separate:
            seen = [net(view) for net, view in zip(self.vision, images.unbind(1), strict=True)]
            return torch.stack(seen, dim=1)[:, :, None]
        found: Tensor = self.vision(images.flatten(0, 1))
        return found.view(len(images), *self.grid)

    def context(self, features: Tensor, prompt: Tensor, state: Tensor) -> Tensor:
        """State and features, as often as the policy reads observations; it reads no words."""
        return torch.cat([state, features], dim=1).repeat(1, self.history)

    def backbone(self) -> list[nn.Parameter]:
        """Those of the encoder of images."""
        return list(self.vision.parameters())
