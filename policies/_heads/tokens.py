"""Actions as tokens: a vision-language model continues its prompt, one token for each number.

Every number of a chunk is one of ``bins`` equal intervals of [-1, 1], and every interval is one
token of the model's own vocabulary: RT-2 (Brohan et al., 2023, arXiv 2307.15818) and OpenVLA (Kim
et al., 2024, arXiv 2406.09246). As in the latter the interval of the lowest actions is the last
token, and so on downward; its 256 bin *edges* are ``bins = 255`` here. Tokens with a meaning of
their own (places of images, beginnings and ends of turns) are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor

from vla_rl.action_head import HeadBase, Sample
from vla_rl.policies._backbones.config import uses_bfloat16
from vla_rl.policies._heads import exploration_noise
from vla_rl.policies._heads.speaker import Speaker
from vla_rl.types import Spaces

if TYPE_CHECKING:
    from vla_rl.policies._heads.token_config import Config

STATE_RANGE = 5.0  # deviations, to which a policy clamps proprioception


def discretise(values: Tensor, bins: int) -> Tensor:
    """Which of ``bins`` equal intervals of [-1, 1] numbers lie in: 0, ..., bins - 1."""
    return ((values + 1) * (bins / 2)).floor().clamp(0, bins - 1).long()


def centres(index: Tensor, bins: int) -> Tensor:
    """The middle of each interval; float32 in (-1, 1)."""
    return (2 * index.float() + 1) / bins - 1


def draw(logprob: Tensor, noise: Tensor) -> Tensor:
    """A word ``[b]`` for each row, by the inverse of its distribution function.

    Args:
        logprob: ``[b, bins]`` of the ordered words.
        noise: ``[b]`` standard normal numbers; a larger one never gives a lower word.
    """
    below = logprob.double().exp().cumsum(1)
    share = torch.special.ndtr(noise.double())[:, None]
    # Rounding may leave the sum of all just under the share of a far tail.
    return torch.searchsorted(below, share, right=True)[:, 0].clamp(max=logprob.shape[1] - 1)


class TokenHead(HeadBase):
    """A chunk as K = H * A words; a :class:`vla_rl.policy.ActionHead`.

    A word is categorical given the words before it, at a temperature that is the same at acting and
    in updates. Acting picks the word at which its distribution function passes ``Phi(e)``, with
    ``e ~ N(0, 1)`` of :mod:`vla_rl.policies._heads.exploration_noise`, independent for every
    word. So every word is
    drawn from the distribution that scores it, and the log-probabilities of a chunk sum to that of
    the whole. Noise that persists, as other heads have, would break this: the words before one
    would then reveal its noise, and even a constant baseline would bias the gradient.

    Without keys it is greedy: the likeliest word after the likeliest words before.

    Args:
        config: Settings, with ``architecture`` and ``action_ids`` filled in.
        spaces: Observations and actions.

    Raises:
        ValueError: If the model cannot generate actions.
    """

    def __init__(self, config: Config, spaces: Spaces) -> None:
        super().__init__()
        self.config = config
        self.speaker = Speaker(config.backbone, spaces, config.action_ids)
        self.action_dim, self.state_dim = spaces.action_dim, spaces.state_dim
        self.units = config.chunk * spaces.action_dim

    def sample(self, context: Tensor, text: Tensor, keys: NDArray[np.int64] | None) -> Sample:
        """See :class:`vla_rl.policy.ActionHead`.

        Args:
            context: ``[B, F + S]`` cached features of the images, then normalised proprioception.
            text: ``[B, L]`` the prompt.
            keys: ``[B, 2]`` seeds of the noise; ``None`` acts greedily.
        """
        kept, known = self._split(context)
        logprob = context.new_zeros((len(context), self.units))
        noise = None if keys is None else self._noise(keys, context.device)

        def pick(step: int, rows: Tensor, states: Tensor) -> Tensor:
            law = self._law(states)
            words = law.argmax(1) if noise is None else draw(law, noise[rows, step])
            logprob[rows, step] = law.gather(1, words[:, None])[:, 0]
            return words

        words = self.speaker.say(kept, text, known, self.units, pick)
        if keys is not None and uses_bfloat16(self.config.backbone.precision, context.device):
            # A cached pass and a whole one round differently (0.15 nats were seen), and the update
            # computes the whole one.
            logprob, _ = self.score(context, text, words)
        actions = centres(words, self.config.bins).view(-1, self.config.chunk, self.action_dim)
        return Sample(words.float(), actions, logprob)

    def score(self, context: Tensor, text: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy of words ``[B, K]``, both ``[B, K]`` in nats."""
        kept, known = self._split(context)
        law = self._law(self.speaker.hear(kept, text, known, raw.long()))
        logprob = law.gather(2, raw.long()[..., None])[..., 0]
        return logprob, -(law.exp() * law).sum(2)

    def imitation_loss(
        self,
        context: Tensor,
        text: Tensor,
        actions: Tensor,
        mask: Tensor,
        generator: Generator | None = None,
    ) -> Tensor:
        """Cross-entropy, in nats per word, against ``actions`` ``[B, H, A]`` where ``mask``.

        It is that of temperature 1, so that another temperature widens or narrows what was learned.
        It draws nothing, so ``generator`` is not used.
        """
        kept, known = self._split(context)
        said = discretise(actions, self.config.bins).flatten(1)
        scores = self.speaker.scores(self.speaker.hear(kept, text, known, said))
        error = F.cross_entropy(scores.flatten(0, 1), said.flatten(), reduction="none")
        weight = mask.repeat_interleave(self.action_dim, dim=1).flatten().float()
        return (error * weight).sum() / weight.sum().clamp(min=1)

    def _law(self, states: Tensor) -> Tensor:
        """Log-probabilities ``[*, bins]``."""
        return F.log_softmax(self.speaker.scores(states) / self.config.temperature, dim=-1)

    def _split(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Cached features of the images, and the tokens ``[B, n]`` that follow the prompt."""
        sizes = [context.shape[1] - self.state_dim, self.state_dim]
        kept, state = torch.split(context, sizes, dim=1)  # type: ignore[no-untyped-call]
        known = discretise(state / STATE_RANGE, self.config.bins)
        return kept, known if self.config.state_tokens else known[:, :0]

    def _noise(self, keys: NDArray[np.int64], device: torch.device) -> Tensor:
        noise = exploration_noise.draw(
            keys, 1, self.config.chunk, self.action_dim, rho=0.0, share=0.0
        )
        return torch.from_numpy(noise.whole[:, 0]).to(device)
