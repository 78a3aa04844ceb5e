"""Actions as words: a vision-language model goes on after its prompt, one token for each number.

Every number of a chunk is one of ``bins`` equal intervals of [-1, 1], and every interval is one
token of the model's own vocabulary: RT-2 (Brohan et al., 2023, arXiv 2307.15818) and OpenVLA (Kim
et al., 2024, arXiv 2406.09246). As in the latter the interval of the lowest actions is the last
token, and so on downward; its 256 bin *edges* are ``bins = 255`` here. Tokens with a meaning of
their own (places of images, beginnings and ends of turns) are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from vla_rl.action_head import HeadBase, Sample
from vla_rl.policies._backbones.backbone import BackboneConfig, uses_bfloat16
from vla_rl.policies._heads import exploration_noise
from vla_rl.policies._vlm import backbone
from vla_rl.policies._vlm.inputs import Description
from vla_rl.policies._vlm.key_value_cache import goes_on_from
from vla_rl.types import Spaces

if TYPE_CHECKING:
    from vla_rl.policies.action_tokens import Config

STATE_RANGE = 5.0  # deviations, to which a policy clamps proprioception

# What stands besides the ids of actions, where it is not 0: PaliGemma's prompt is read in both
# directions and what it answers in one.
_SAID = {"paligemma": {"token_type_ids": 1}}
_MASK = "attention_mask"

Pick = Callable[[int, Tensor, Tensor], Tensor]
"""From a step, the rows ``[b]`` of the batch and their states ``[b, C]`` to words ``[b]``."""


def choose(config: BackboneConfig, bins: int) -> tuple[int, ...]:
    """Ids of the tokens of the intervals, from the lowest actions to the highest.

    They are the last ones of the vocabulary that are no special tokens, in descending order.

    Raises:
        ValueError: If the vocabulary has too few.
    """
    words = backbone.plain_words(config)
    if len(words) < bins:
        raise ValueError(
            f"bins {bins} is outside the allowed range 2, ..., {len(words)}, the tokens of "
            f"{config.vision!r} without the special ones"
        )
    return tuple(words[: -bins - 1 : -1])


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


class Speaker(backbone.VLMBackbone):
    """A vision-language model that speaks on after the prompt, in chosen words.

    Rows of equal prompt length are read together, so that nothing is padded and the positions and
    masks of every family are those that it makes by itself.

    Attributes:
        rows: From states to scores of the words; at first the model's own rows of them.
    """

    rows: nn.Linear
    ids: Tensor  # [words]

    def __init__(self, config: BackboneConfig, spaces: Spaces, words: Sequence[int]) -> None:
        """Make the network of ``config.architecture``.

        Raises:
            ValueError: If its language model is not one stack of decoder layers.
        """
        if Description.from_json(config.architecture).network_config().is_encoder_decoder:
            raise ValueError(_mute(config))
        super().__init__(config, spaces, words)
        if self.by_hand:
            raise ValueError(_mute(config))
        self.rows = self.net.get_output_embeddings().requires_grad_(True)
        self.net.set_output_embeddings(nn.Identity())  # it is no part of the network's own group
        self.register_buffer("ids", torch.tensor(words), persistent=False)
        self._said = _SAID.get(self.about.config["model_type"], {})

    def scores(self, states: Tensor) -> Tensor:
        """Unnormalised log-probabilities ``[*, words]`` after states ``[*, C]``, in float32."""
        with torch.autocast(states.device.type, enabled=False):
            found: Tensor = self.rows(states.float())
        return found

    def say(self, kept: Tensor, prompt: Tensor, known: Tensor, count: int, pick: Pick) -> Tensor:
        """Words ``[B, count]``, each picked after those before it; one pass for each, with a cache.

        Args:
            kept: ``[B, F]`` what :meth:`keep` made of the images.
            prompt: ``[B, L]``.
            known: ``[B, n]`` words that follow the prompt.
            count: How many.
            pick: Makes words of states.
        """
        said = known.new_zeros((len(kept), count))
        self.net.eval()  # while layers are to compute their activations again, they keep no cache
        with self.low(kept.device):
            for rows, inputs in self._beginnings(prompt, known):
                out = self.decoded(self._restored(kept[rows]), inputs, use_cache=True)
                for step in range(count):
                    if step:
                        out = self.net.base_model(
                            input_ids=self.ids[said[rows, step - 1], None],
                            **goes_on_from(self.net.base_model, out.past_key_values),
                            use_cache=True,
                        )
                    said[rows, step] = pick(step, rows, out.last_hidden_state[:, -1])
        self.train(False)
        return said

    def hear(self, kept: Tensor, prompt: Tensor, known: Tensor, said: Tensor) -> Tensor:
        """States ``[B, count, C]`` from which ``said`` was picked; one pass, with gradient."""
        order, states = [], []
        with self.low(kept.device):
            for rows, inputs in self._beginnings(prompt, known):
                told = self._followed(inputs, said[rows, :-1], self._said)
                out = self.decoded(self._restored(kept[rows]), told, use_cache=False)
                order.append(rows)
                states.append(out.last_hidden_state[:, -said.shape[1] :])
        return torch.cat(states)[torch.cat(order).argsort()]

    def _beginnings(
        self, prompt: Tensor, known: Tensor
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Rows ``[b]`` of equal prompt length, and what the model reads before its first word."""
        inputs = self._text(prompt)
        lengths = inputs.pop(_MASK).sum(1)
        for length in sorted(set(lengths.tolist())):
            rows = (lengths == length).nonzero()[:, 0]
            mine = {name: value[rows, :length] for name, value in inputs.items()}
            yield rows, self._followed(mine, known[rows], {})

    def _followed(
        self, inputs: dict[str, Tensor], words: Tensor, companions: dict[str, int]
    ) -> dict[str, Tensor]:
        """The tensors of a text with words ``[b, n]`` after it."""
        return {
            name: torch.cat(
                [
                    value,
                    self.ids[words]
                    if name == "input_ids"
                    else torch.full_like(words, companions.get(name, 0)),
                ],
                dim=1,
            )
            for name, value in inputs.items()
        }


class TokenHead(HeadBase):
    """A chunk as K = H * A words; a :class:`vla_rl.policy.ActionHead`.

    A word is categorical given the words before it, at a temperature that is the same at acting and
    in updates. Acting picks the word at which its distribution function passes ``Phi(e)``, with
    ``e ~ N(0, 1)`` of :mod:`vla_rl.policies._heads.exploration_noise`, independent for every
    word. So every word is
    drawn from the distribution that scores it, and the log-probabilities of a chunk sum to that of
    the whole. Noise that persists, as other heads have, would break this: the words before one
    would then tell of its noise, and already a constant baseline would bias the gradient.

    Without keys it is greedy: the likeliest word after the likeliest words before.

    Args:
        config: Settings, with ``architecture`` and ``action_ids`` filled in.
        spaces: What it sees and does.

    Raises:
        ValueError: If the model cannot speak actions.
    """

    def __init__(self, config: Config, spaces: Spaces) -> None:
        super().__init__()
        self.config = config
        self.speaker = Speaker(config, spaces, config.action_ids)
        self.action_dim, self.state_dim = spaces.action_dim, spaces.state_dim
        self.units = config.chunk * spaces.action_dim

    def sample(self, context: Tensor, text: Tensor, keys: NDArray[np.int64] | None) -> Sample:
        """See :class:`vla_rl.policy.ActionHead`.

        Args:
            context: ``[B, F + S]`` what was kept of the images, then normalised proprioception.
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
        if keys is not None and uses_bfloat16(self.config.precision, context.device):
            # A cached pass and a whole one round differently (0.15 nats were seen), and the update
            # knows the whole one.
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
        """What was kept of the images, and the words ``[B, n]`` that follow the prompt."""
        sizes = [context.shape[1] - self.state_dim, self.state_dim]
        kept, state = torch.split(context, sizes, dim=1)  # type: ignore[no-untyped-call]
        known = discretise(state / STATE_RANGE, self.config.bins)
        return kept, known if self.config.state_tokens else known[:, :0]

    def _noise(self, keys: NDArray[np.int64], device: torch.device) -> Tensor:
        noise = exploration_noise.draw(
            keys, 1, self.config.chunk, self.action_dim, rho=0.0, share=0.0
        )
        return torch.from_numpy(noise.whole[:, 0]).to(device)


def _mute(config: BackboneConfig) -> str:
    return (
        f"{config.vision!r} cannot speak actions: it is no single stack of layers that reads "
        "images and words and writes words. Choose a decoder-only model such as SmolVLM, "
        'PaliGemma, Gemma 3, Qwen2.5-VL, InternVL or LLaVA, or the network "vla", which can use '
        "this one as a backbone"
    )
