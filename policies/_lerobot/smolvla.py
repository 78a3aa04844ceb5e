"""LeRobot's SmolVLA: SmolVLM, and an expert that denoises chunks, with a likelihood."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from lerobot.policies.smolvla import smolvlm_with_expert
from lerobot.policies.smolvla.modeling_smolvla import (
    VLAFlowMatching,
    make_att_2d_masks,
    resize_with_pad,
)
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from vla_rl.action_head import Sample
from vla_rl.policies._backbones.backbone import Grid
from vla_rl.policies._heads.config import FlowConfig, Size
from vla_rl.policies._heads.flow import FlowNoise, FlowSDE, OneStepFlowSDE, beta_times
from vla_rl.policies._heads.whole_chunk import PartOfFlow, WholeChunkFlow, variant
from vla_rl.policies._lerobot.body import ActionScale, Body
from vla_rl.policies._lerobot.description import Description
from vla_rl.types import Floats, Spaces

SAVED_AS = "model"
READER = "tokenizer"
_TIME = (0.999, 0.001)  # scale and offset of LeRobot's training times
_TIME_SHAPE = (1.5, 1.0)  # of their beta distribution


def described(about: Description) -> Description:
    """With the configuration of the vision-language model, so that a saved policy needs no hub.

    Raises:
        ValueError: If the model cannot be read.
    """
    name = about.config().vlm_model_name
    try:
        found = transformers.AutoConfig.from_pretrained(name)
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the vision-language model {name!r} of SmolVLA cannot be read: {error} Name a folder "
            "that holds it: --net.options vlm_model_name=FOLDER"
        ) from error
    marks = (tokenizer.fake_image_token_id, tokenizer.global_image_token_id)
    return replace(about, backbone=found.to_dict(), image_marks=marks)


def network(about: Description) -> Any:
    """The network as LeRobot makes it, in float32.

    Raises:
        ValueError: If the vision-language model's weights cannot be read.
    """
    kind = transformers.CONFIG_MAPPING[about.backbone["model_type"]]
    backbone: Any = kind.from_dict(about.backbone)
    marks = SimpleNamespace(
        fake_image_token_id=about.image_marks[0], global_image_token_id=about.image_marks[1]
    )
    configs = SimpleNamespace(from_pretrained=lambda name: backbone)
    readers = SimpleNamespace(from_pretrained=lambda name: SimpleNamespace(tokenizer=marks))
    # It would ask the hub, in every worker; and its processor needs one more package.
    with _sources(configs, readers), contextlib.redirect_stdout(io.StringIO()):
        try:
            net = VLAFlowMatching(about.config())
        except OSError as error:
            raise ValueError(f"the vision-language model cannot be read: {error}") from error
    net.vlm_with_expert.processor = None
    return net.float()


@contextlib.contextmanager
def _sources(configs: Any, readers: Any) -> Iterator[None]:
    """What LeRobot reads a model's configuration and processor from, for as long as this lasts."""
    names = {"AutoConfig": configs, "AutoProcessor": readers}
    usual = {name: vars(smolvlm_with_expert)[name] for name in names}
    vars(smolvlm_with_expert).update(names)
    try:
        yield
    finally:
        vars(smolvlm_with_expert).update(usual)


def _as_seen(features: Tensor) -> Tensor:
    return features


class Cache:
    """The prefix of a decision as one vector: which tokens count, then their keys and values.

    Args:
        layers: Of the language model.
        heads: Of keys and values.
        width: Of one of them.
    """

    def __init__(self, layers: int, heads: int, width: int) -> None:
        self.layers, self.heads, self.width = layers, heads, width

    def pack(self, mask: Tensor, cached: dict[int, dict[str, Tensor]]) -> Tensor:
        """``[B, L]`` and the keys and values of every layer to ``[B, D]``."""
        pairs = [cached[i][name] for i in range(self.layers) for name in _PAIR]
        return torch.cat([mask.float(), torch.stack(pairs, dim=1).flatten(1)], dim=1)

    def unpack(self, packed: Tensor, copies: int) -> tuple[Tensor, dict[int, dict[str, Tensor]]]:
        """What was packed, every row ``copies`` times."""
        size = self.layers * len(_PAIR) * self.heads * self.width
        length = packed.shape[1] // (size + 1)

        def repeated(x: Tensor) -> Tensor:
            return x[:, None].expand(-1, copies, *x.shape[1:]).flatten(0, 1)

        pairs = packed[:, length:].view(
            len(packed), self.layers, len(_PAIR), length, self.heads, self.width
        )
        cached = {
            i: {name: repeated(pairs[:, i, k]) for k, name in enumerate(_PAIR)}
            for i in range(self.layers)
        }
        return repeated(packed[:, :length]).bool(), cached


_PAIR = ("key_states", "value_states")


class _ExpertFlow(WholeChunkFlow):
    """Denoises whole chunks of the model, C steps of M dimensions, in normalised units.

    LeRobot counts time the other way (t = 1 is noise, and its velocity points there), so t is
    ``1 - tau`` and the velocity's sign is turned in :meth:`predict`, and nowhere else.
    """

    def __init__(self, config: FlowConfig, size: Size, net: Any, cache: Cache) -> None:
        super().__init__(config, size)
        self.net, self.cache, self.out = net, cache, net.action_out_proj
        net.action_out_proj = nn.Identity()  # so that a step gives the states behind the velocity

    def predict(self, context: Tensor, samples: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`FlowHead`; all S samples of a row are rows of one batch."""
        rows, steps, _ = samples.shape
        mask, cached = self.cache.unpack(context, steps)
        states = self.net.denoise_step(
            prefix_pad_masks=mask,
            past_key_values=cached,
            x_t=samples.reshape(-1, self.horizon, self.action_dim),
            timestep=1 - tau[..., 0].expand(rows, steps).flatten(),
        )
        velocity = -self.out(states)
        return velocity.view_as(samples), states.view(rows, steps, self.horizon, -1)

    def times(self, rows: int, generator: Generator | None) -> Tensor:
        """As the model was pretrained: more of them near the noise."""
        return 1 - (_TIME[0] * beta_times(rows, *_TIME_SHAPE, generator) + _TIME[1])


class _ExpertSDE(FlowSDE, _ExpertFlow):
    """Flow-SDE with the expert."""


class _OneStepExpertSDE(OneStepFlowSDE, _ExpertFlow):
    """Flow-SDE with one random step."""


class _ExpertNoise(FlowNoise, _ExpertFlow):
    """Flow-Noise: the deviations of a step of the chunk are read off the expert's state of it."""


class SmolVLAHead(PartOfFlow):
    """The first H steps and A dimensions of the chunks that the model denoises, un-normalised.

    ``raw`` holds chains in normalised units.
    """

    def __init__(self, config: FlowConfig, size: Size, net: Any, cache: Cache) -> None:
        made = variant(config, _ExpertSDE, _OneStepExpertSDE, _ExpertNoise)
        whole = size._replace(
            horizon=net.config.chunk_size,
            action_dim=net.config.max_action_dim,
            context_dim=net.vlm_with_expert.expert_hidden_size,
        )
        super().__init__(made(config, whole, net, cache), size.horizon, size.action_dim)
        self.actions = ActionScale(size.action_dim)

    def sample(self, context: Tensor, text: Tensor, keys: NDArray[np.int64] | None) -> Sample:
        """Act: with the noise of the rows' keys ``[B, 2]``, or greedily without keys."""
        last, raw = self.whole.denoised(context, keys)
        actions = self.actions.restored(self.used(last)).clamp(-1, 1)
        return Sample(raw, actions, self.score(context, text, raw)[0])

    def imitation_loss(
        self,
        context: Tensor,
        text: Tensor,
        actions: Tensor,
        mask: Tensor,
        generator: Generator | None = None,
    ) -> Tensor:
        """The model's loss towards ``actions`` ``[B, H, A]`` where ``mask`` ``[B, H]``."""
        return self.matched(context, self.actions.normalised(actions), mask, generator)


class SmolVLABody(Body):
    """The vision tower and connector, and the two stacks of layers behind them."""

    def __init__(
        self,
        about: Description,
        net: Any,
        head: FlowConfig,
        size: Size,
        views: int,
        spaces: Spaces,
    ) -> None:
        super().__init__()
        config = self.config = about.config()
        _check_room(config, size.horizon, spaces)
        self.prompt = config.tokenizer_max_length
        self.looks_frozen = config.train_expert_only  # which means all of SmolVLM
        text = net.vlm_with_expert.config.text_config
        cache = Cache(net.vlm_with_expert.num_vlm_layers, text.num_key_value_heads, text.head_dim)
        net.vlm_with_expert.vlm.lm_head = None  # it generates no text
        self.head = SmolVLAHead(head, size, net, cache)
        side = config.resize_imgs_with_padding
        with torch.no_grad():
            seen = self._embedded(torch.zeros(1, 3, *reversed(side)))
        net.vlm_with_expert.embed_image = _as_seen
        self.grid = Grid(views, *seen.shape[1:])
        self.tokenizer: Any = None

    @property
    def _net(self) -> Any:
        return self.head.whole.net

    def look(self, images: Tensor) -> Tensor:
        """``[B, V, 3, h, w]``, 0 to 1, to ``[B, V, P, C]``."""
        flat = images.flatten(0, 1)
        padded = resize_with_pad(flat, *self.config.resize_imgs_with_padding, pad_value=0)
        return self._embedded(2 * padded - 1).reshape(len(images), *self.grid)

    def context(self, features: Tensor, prompt: Tensor, state: Tensor) -> Tensor:
        """The prefix (images, words, state) as the packed keys and values of its layers."""
        net, rows = self._net, len(features)
        seen = features.view(rows, *self.grid).unbind(1)
        there = torch.ones(rows, dtype=torch.bool, device=features.device)
        embedded, counts, turns = net.embed_prefix(
            list(seen),
            [there] * len(seen),
            prompt.long().clamp(min=0),
            prompt >= 0,
            state=F.pad(state, (0, self.config.max_state_dim - state.shape[1])),
        )
        _, cached = net.vlm_with_expert.forward(
            attention_mask=make_att_2d_masks(counts, turns),
            position_ids=torch.cumsum(counts, dim=1) - 1,
            past_key_values=None,
            inputs_embeds=[embedded, None],
            use_cache=True,
            fill_kv_cache=True,
        )
        packed: Tensor = self.head.whole.cache.pack(counts, cached)
        return packed

    def backbone(self) -> list[nn.Parameter]:
        """SmolVLM's."""
        return list(self._net.vlm_with_expert.vlm.parameters())

    def encode(self, sentences: Sequence[str]) -> Floats:
        """Token ids ``[n, L]``, filled up with -1.

        Raises:
            ValueError: If a sentence is too long.
        """
        if self.tokenizer is None:
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(self.config.vlm_model_name)
        found = np.full((len(sentences), self.prompt), -1, np.float32)
        for row, sentence in zip(found, sentences, strict=True):
            ids = self.tokenizer(sentence.rstrip("\n") + "\n")["input_ids"]
            if len(ids) > self.prompt:
                raise ValueError(
                    f"{sentence!r} has {len(ids)} tokens, SmolVLA reads {self.prompt}: raise "
                    "--net.options tokenizer_max_length=..."
                )
            row[: len(ids)] = ids
        return found

    def save_reader(self, folder: Path) -> None:
        """The tokenizer."""
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder / READER)

    def load_reader(self, folder: Path) -> None:
        """The tokenizer."""
        if (folder / READER).is_dir():
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder / READER)

    def _embedded(self, images: Tensor) -> Tensor:
        both = self._net.vlm_with_expert
        found: Tensor = type(both).embed_image(both, images)
        return found


def _check_room(config: Any, chunk: int, spaces: Spaces) -> None:
    for what, wanted, name in (
        ("actions of {} dimensions", spaces.action_dim, "max_action_dim"),
        ("proprioception of {} dimensions", spaces.state_dim, "max_state_dim"),
        ("a chunk of {} actions", chunk, "chunk_size"),
    ):
        most = vars(config)[name]
        if wanted > most:
            raise ValueError(
                f"{what.format(wanted)} does not fit this SmolVLA, whose {name} is {most}"
            )
