"""Action heads that denoise a chunk by flow matching, with a likelihood for every chunk."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betaincinv
from torch import Generator, Tensor, nn

from vla_rl.action_head import Sample
from vla_rl.functional import flow
from vla_rl.functional.density import normal_entropy, normal_logprob
from vla_rl.policies._heads import exploration_noise
from vla_rl.policies._heads.config import FlowConfig, FlowNoiseConfig, FlowSDEConfig, Size
from vla_rl.policies._heads.correlated import CorrelatedHead
from vla_rl.policies._heads.mlp import mlp

DRAWS = 4  # noises and times for each row; backbones cost more, and one alone cloned worse
LONGEST_PERIOD, SHORTEST_PERIOD, PERIODS = 4.0, 0.1, 8


class Law(NamedTuple):
    """Normals of next samples: ``mean [B, S, K]`` and ``log_std``, which broadcasts to it."""

    mean: Tensor
    log_std: Tensor


def time_features(tau: Tensor) -> Tensor:
    """Sines and cosines of times ``[*]`` at eight periods from 4 to 0.1, ``[*, 16]``."""
    periods = torch.logspace(math.log10(LONGEST_PERIOD), math.log10(SHORTEST_PERIOD), PERIODS)
    angle = tau[..., None] * (2 * math.pi / periods).to(tau.device)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class FlowHead(CorrelatedHead):
    """Denoises a chunk in S steps; a subclass defines how random a step is.

    A network reads the context, the K = H * A numbers of a noisy chunk and the time, and predicts
    the expected action, ``E[A | A^tau]``. That gives the velocity,
    ``(E[A | A^tau] - A^tau) / (1 - tau)``, which is trained by conditional flow matching, and the
    noise is gone at the end of a chain however little was learnt. (One that predicts the velocity
    must learn to subtract it: after 150 steps of cloning, chains of such a one failed
    without any noise added, where it did half of the episodes greedily.)

    Acting is a chain ``A^0 .. A^S`` from noise to action, all of which is ``raw``
    (``[B, (S + 1) * K]``); ``actions = clip(A^S, -1, 1)``. The log-prob of a unit is the sum over
    its chain (see :func:`vla_rl.functional.flow.chain_logprob`), and all steps are scored in one
    pass of the network.

    All noise (where a chain starts, what its steps add, and where imitation starts from) has the
    covariance over a chunk of :mod:`vla_rl.policies._heads.exploration_noise`, so exploration
    persists as that of the other heads, and the chain's theory stays exact (see
    :mod:`vla_rl.functional.flow`). Each draw has a constant of its own over the
    episode, and each random step is scored by the density of :class:`CorrelatedHead`. A network
    that was trained from independent noise elsewhere needs ``rho = episode_share = 0``. Where only
    the first steps of a chunk are executed, those are scored, and what the rest of the chunk was
    while it was denoised counts as given.

    Greedy acting (no keys) starts at 0, the mean of the noise, and follows the ODE: no step is
    random. Its log-prob is the density of that chain.

    A head that was cloned before the density was chosen imitated with noise that lasts for an
    episode; under "decision" it acts without, so its velocity is then used a little off the noise
    that it was learned from.

    A subclass with a velocity network of another kind overrides :meth:`build`, :meth:`predict`
    and maybe :meth:`times`.
    """

    factors: Tensor  # [2, H, H] what makes independent noise that of a chunk; without what lasts

    def __init__(self, config: FlowConfig, size: Size) -> None:
        super().__init__(config, size.horizon, size.action_dim)
        self.steps = config.denoising_steps
        self.build(size)
        shares = (config.episode_share, 0.0)
        laws = [exploration_noise.covariance(size.horizon, config.rho, share) for share in shares]
        factors = torch.from_numpy(np.linalg.cholesky(np.stack(laws)).astype(np.float32))
        self.register_buffer("factors", factors, persistent=False)

    @property
    def factor(self) -> Tensor:
        """``[H, H]`` what makes independent noise that of a chunk under the present density."""
        return self.factors[int(self.density == "decision")]

    def build(self, size: Size) -> None:
        """Make the network; sets the width of its inputs and their number of parts."""
        self.inputs, self.parts = size.context_dim + self.units + 2 * PERIODS, 1
        self.denoiser = mlp(self.inputs, size.hidden, self.units, gain=0.01)

    def predict(self, context: Tensor, samples: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        """The velocity ``[B, S, K]`` at ``samples`` ``[B, S, K]``, and what it was made of.

        The latter is ``[B, S, I]``, or ``[B, S, parts, I]`` if a part belongs to K / parts units.
        """
        inputs = self._inputs(context, samples, tau)
        return (self.denoiser(inputs) - samples) / (1 - tau), inputs

    @abstractmethod
    def law(self, inputs: Tensor, samples: Tensor, velocity: Tensor, tau: Tensor) -> Law:
        """The law of the next samples, where a step is random.

        Args:
            inputs: What the velocity was made of; see :meth:`predict`.
            samples: ``[B, S, K]`` A^tau.
            velocity: ``[B, S, K]`` of the network.
            tau: ``[B, S, 1]`` or ``[1, S, 1]``, in [0, 1).
        """

    def forward(self, context: Tensor, samples: Tensor, tau: Tensor) -> tuple[Law, Tensor]:
        """From ``samples`` ``[B, S, K]`` at ``tau``: the law of the next ones, and the ODE's."""
        velocity, inputs = self.predict(context, samples, tau)
        return self.law(inputs, samples, velocity, tau), samples + velocity / self.steps

    def sample(self, context: Tensor, text: Tensor, keys: NDArray[np.int64] | None) -> Sample:
        """Act: with the noise of the rows' keys ``[B, 2]``, or greedily without keys."""
        last, raw = self.denoised(context, keys)
        actions = last.clamp(-1, 1).view(-1, self.horizon, self.action_dim)
        return Sample(raw, actions, self.score(context, text, raw)[0])

    def denoised(self, context: Tensor, keys: NDArray[np.int64] | None) -> tuple[Tensor, Tensor]:
        """Run chains: their last samples ``[B, K]``, not clipped, and ``raw``."""
        noise, constant = self.noise(keys, context, self.steps + 1, self.horizon)
        if keys is None:
            random = torch.zeros(noise.shape[0], self.steps, dtype=torch.bool, device=noise.device)
        else:
            random = self._random(keys).to(noise.device)
        chain = self._denoise(context, noise, random)
        return chain[:, -1], self._record(chain, random, constant)

    def score(self, context: Tensor, text: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density of chains ``raw`` and entropy of their noise, both ``[B, K]``, in nats."""
        draws = self.steps + 1
        sampled, constant = self.recalled(raw, draws * self.units, draws)
        chain = sampled.view(len(raw), draws, self.units)
        tau = flow.grid(self.steps)[:-1].to(raw.device)
        law, _ = self(context, chain[:, :-1], tau.view(1, -1, 1))
        log_std = law.log_std.expand_as(law.mean)
        added = (chain[:, 1:] - law.mean) * torch.exp(-log_std)
        dependence = self.dependence(torch.cat([chain[:, :1], added], dim=1), constant)
        logprob = flow.chain_logprob(chain, law.mean, log_std) + dependence.sum(1)
        return logprob, flow.chain_entropy(log_std) + draws * self.log_width()

    def imitation_loss(
        self,
        context: Tensor,
        text: Tensor,
        actions: Tensor,
        mask: Tensor,
        generator: Generator | None = None,
    ) -> Tensor:
        """Conditional flow matching towards ``actions`` ``[B, H, A]`` where ``mask`` ``[B, H]``."""
        return self.match(context, actions, mask[..., None].expand_as(actions), generator)

    def match(
        self, context: Tensor, actions: Tensor, counted: Tensor, generator: Generator | None
    ) -> Tensor:
        """Conditional flow matching towards ``actions`` where ``counted``, both ``[B, H, A]``.

        Several noises and times for each row, drawn from a CPU generator (None: torch's global
        one): two calls differ.
        """
        rows, device = len(actions), actions.device
        known = torch.where(counted, actions, torch.zeros_like(actions)).flatten(1)[:, None]
        shape = (rows, DRAWS, self.horizon, self.action_dim)
        fresh = torch.randn(shape, generator=generator).to(device)
        noise = torch.einsum("hj,bdja->bdha", self.factor, fresh).flatten(2)
        tau = self.times(rows, generator).to(device)
        velocity, _ = self.predict(context, flow.blend(known, noise, tau), tau)
        return flow.matching_loss(velocity, known, noise, counted.flatten(1)[:, None])

    def times(self, rows: int, generator: Generator | None) -> Tensor:
        """Times at which imitation is trained, ``[B, DRAWS, 1]``: uniform up to the last step."""
        return torch.rand(rows, DRAWS, 1, generator=generator) * (1 - 1 / self.steps)

    def _denoise(self, context: Tensor, noise: Tensor, random: Tensor) -> Tensor:
        """Chains ``[B, S + 1, K]`` that are random where ``[B, S]``, else follow the ODE."""
        chain = [noise[:, 0]]
        for step, tau in enumerate(flow.grid(self.steps)[:-1].to(noise.device)):
            law, still = self(context, chain[-1][:, None], tau.view(1, 1, 1))
            moved = law.mean + law.log_std.exp() * noise[:, step + 1, None]
            chain.append(torch.where(random[:, step, None], moved[:, 0], still[:, 0]))
        return torch.stack(chain, dim=1)

    def _random(self, keys: NDArray[np.int64]) -> Tensor:
        """Which steps are random, ``[B, S]``."""
        return torch.ones(len(keys), self.steps, dtype=torch.bool)

    def _record(self, chain: Tensor, random: Tensor, constant: Tensor) -> Tensor:
        """What of a chain is needed to score it, ``[B, R]``."""
        return self.recorded(chain.flatten(1), constant)

    def _inputs(self, context: Tensor, samples: Tensor, tau: Tensor) -> Tensor:
        shape = samples.shape[:2]
        known = context[:, None].expand(*shape, -1)
        return torch.cat([known, samples, time_features(tau[..., 0]).expand(*shape, -1)], dim=-1)


class FlowSDE(FlowHead):
    """Flow-SDE: a stochastic differential equation with the marginals of the ODE.

    Its noise has a given size, ``noise_level`` (see :func:`vla_rl.functional.flow.sigma`), so
    its entropy is a constant. Flow-GRPO (Liu et al., 2025, arXiv 2505.05470), piRL (2025, arXiv
    2510.25889).
    """

    config: FlowSDEConfig

    def law(self, inputs: Tensor, samples: Tensor, velocity: Tensor, tau: Tensor) -> Law:
        """An Euler-Maruyama step."""
        diffusion = flow.sigma(tau, self.config.noise_level, self.steps)
        mean, std = flow.sde_step(samples, velocity, tau, diffusion, self.steps)
        return Law(mean, std.log())


class OneStepFlowSDE(FlowSDE):
    """Flow-SDE in which one step of a decision is random, and the others follow the ODE.

    Which one is drawn for every decision, all equally likely (piRL's hybrid of ODE and SDE). The
    start of the chain and that choice count as part of what was given, so ``raw`` holds the number
    of the step and the samples before and after it, ``[B, 1 + 2 K]``, and the log-prob is that of
    this one step. The steps after it lead from its sample to the action as the world leads from the
    action to what follows: that they depend on the weights too gets no gradient. Greedy acting
    records the first step.
    """

    def score(self, context: Tensor, text: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density and entropy of the random step of ``raw``, both ``[B, K]``, in nats."""
        sampled, constant = self.recalled(raw, 1 + 2 * self.units, 1)
        tau = sampled[:, :1, None] / self.steps
        before, after = sampled[:, None, 1:].chunk(2, dim=-1)
        law, _ = self(context, before, tau)
        log_std = law.log_std.expand_as(law.mean)
        e = (after - law.mean) * torch.exp(-log_std)
        logprob = normal_logprob(after, law.mean, log_std) + self.dependence(e, constant)
        return logprob[:, 0], normal_entropy(log_std)[:, 0] + self.log_width()

    def _random(self, keys: NDArray[np.int64]) -> Tensor:
        chosen = torch.from_numpy(exploration_noise.pick(keys, self.steps))
        return nn.functional.one_hot(chosen, self.steps).bool()

    def _record(self, chain: Tensor, random: Tensor, constant: Tensor) -> Tensor:
        row, step = torch.arange(len(chain), device=chain.device), random.int().argmax(1)
        samples = [step[:, None].to(chain.dtype), chain[row, step], chain[row, step + 1]]
        return self.recorded(torch.cat(samples, dim=1), constant[row, step + 1])


class FlowNoise(FlowHead):
    """Flow-Noise: every step adds noise of a learned size to the ODE's.

    A second network of the same shape reads what the first one reads (detached: exploring must not
    shape the features) and predicts the deviation of every unit, within ``noise_std`` and
    at first in the middle of that range, on a log scale. Only the likelihood and the entropy bonus
    train it; greedy acting drops it (piRL, 2025, arXiv 2510.25889).
    """

    config: FlowNoiseConfig

    def build(self, size: Size) -> None:
        """Also the network of the deviations, for each part of the inputs."""
        super().build(size)
        self.spread = mlp(self.inputs, size.hidden, self.units // self.parts, gain=0.01)

    def law(self, inputs: Tensor, samples: Tensor, velocity: Tensor, tau: Tensor) -> Law:
        """An Euler step of the ODE, and noise."""
        least, most = map(math.log, self.config.noise_std)
        share = torch.sigmoid(self.spread(inputs.detach()).flatten(2))
        return Law(samples + velocity / self.steps, least + (most - least) * share)

    def deviations(self) -> list[nn.Parameter]:
        """The network of the deviations."""
        return list(self.spread.parameters())


def beta_times(rows: int, alpha: float, beta: float, generator: Generator | None) -> Tensor:
    """Numbers ``[rows, DRAWS, 1]`` of a beta distribution, from uniform ones."""
    uniform = torch.rand(rows, DRAWS, 1, generator=generator)
    return torch.from_numpy(betaincinv(alpha, beta, uniform.double().numpy())).float()
