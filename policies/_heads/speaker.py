"""A language model that generates tokens of actions, and scores them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from vla_rl.policies._backbones.config import VisionLanguageConfig
from vla_rl.policies._vlm import backbone
from vla_rl.policies._vlm.inputs import Description
from vla_rl.policies._vlm.key_value_cache import goes_on_from
from vla_rl.types import Spaces

# What stands besides the ids of actions, where it is not 0: PaliGemma's prompt is read in both
# directions and what it answers in one.
_SAID = {"paligemma": {"token_type_ids": 1}}
_MASK = "attention_mask"
Pick = Callable[[int, Tensor, Tensor], Tensor]
"""From a step, the rows ``[b]`` of the batch and their states ``[b, C]`` to words ``[b]``."""


def choose(config: VisionLanguageConfig, bins: int) -> tuple[int, ...]:
    """Ids of the tokens of the intervals, from the lowest actions to the highest.

    They are the last ones of the vocabulary that are no special tokens, in descending order.

    Raises:
        ValueError: If the vocabulary has too few.
    """
    words = backbone.plain_words(config)
    if len(words) < bins:
        raise ValueError(
            f"bins {bins} is outside the allowed range 2, ..., {len(words)}, the tokens of "
            f"{config.name!r} without the special ones"
        )
    return tuple(words[: -bins - 1 : -1])


class Speaker(backbone.VLMBackbone):
    """A vision-language model that continues the prompt with chosen tokens.

    Rows of equal prompt length are read together, so that nothing is padded and the positions and
    masks of every family are those that it makes by itself.

    Attributes:
        rows: From states to scores of the words; at first the model's own rows of them.
    """

    rows: nn.Linear
    ids: Tensor  # [words]

    def __init__(self, config: VisionLanguageConfig, spaces: Spaces, words: Sequence[int]) -> None:
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
            kept: ``[B, F]`` what :meth:`cache_features` made of the images.
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


def _mute(config: VisionLanguageConfig) -> str:
    return (
        f"{config.name!r} cannot generate actions: it is no single stack of layers that reads "
        "images and words and writes words. Choose a decoder-only model such as SmolVLM, "
        'PaliGemma, Gemma 3, Qwen2.5-VL, InternVL or LLaVA, or the network "vla", which can use '
        "this one as a backbone"
    )
