"""What a vision-language model reads: token ids of a sentence, tensors of images.

A transformers processor does both, and differs from family to family. It is asked in the main
process only, once per sentence; what the workers need besides is a plain-text :class:`Description`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor

from vla_rl.types import Floats, Spaces

IMAGES, INSTRUCTION = "{images}", "{instruction}"
_WHOLE = {  # one picture of the scene per view: tiles and crops cost many times the tokens
    "do_image_splitting": False,
    "crop_to_patches": False,
    "do_pan_and_scan": False,
}
# Families that were made for one picture: several views are put side by side.
_ONE_IMAGE = ("blip-2", "florence2")
_TEXT_ONLY = {"trust_remote_code": False}  # a model's own code is never run


def _square(size: int) -> dict[str, Any]:
    return {"size": {"height": size, "width": size}}


def _idefics(size: int) -> dict[str, Any]:
    edge = {"longest_edge": size}
    return {"size": edge, "max_image_size": edge}


def _area(size: int) -> dict[str, Any]:
    return {"size": {"shortest_edge": size * size, "longest_edge": size * size}}


def _clip(size: int) -> dict[str, Any]:
    return {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}


_SIZES: dict[str, Callable[[int], dict[str, Any]]] = {
    "smolvlm": _idefics,
    "idefics3": _idefics,
    "internvl": _square,
    "qwen2_vl": _area,
    "qwen2_5_vl": _area,
    "qwen3_vl": _area,
    "llava": _clip,
}


@dataclass(frozen=True)
class Description:
    """Everything about a vision-language model but its weights and its tokenizer.

    Attributes:
        config: Settings of the network, as in its ``config.json``.
        image_processor: Settings of the image processor, as in ``preprocessor_config.json``.
        image_settings: Arguments that its calls get besides.
        text_inputs: Names of the tensors that a sentence becomes; all of one length.
        length: That length in tokens, with room for the longest instruction allowed.
        padding: What fills the rest, by name.
        constants: Tensors that the images of every observation share, by name, of one observation.
        cameras: Views of the suite.
        image_size: Side of their images in pixels.
        views: Pictures per observation that the model is shown.
        image_token: Id of the token that stands for a piece of a picture.
        image_tokens: Such tokens per observation.
    """

    config: dict[str, Any]
    image_processor: dict[str, Any]
    image_settings: dict[str, Any]
    text_inputs: list[str]
    length: int
    padding: dict[str, int]
    constants: dict[str, Any]
    cameras: int
    image_size: int
    views: int
    image_token: int
    image_tokens: int

    def to_json(self) -> str:
        """As text, the form in which it is stored and sent."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Description:
        """From text."""
        return cls(**json.loads(text))

    def network_config(self) -> Any:
        """The settings of the network as transformers wants them."""
        return transformers.AutoConfig.for_model(**_without_dropout(self.config))


class Prompter:
    """Sentences to token ids, by the processor of a model.

    Args:
        source: Hub name or folder of the processor.
        prompt: Text with ``{instruction}`` and, where the images shall stand, ``{images}``.
        words: Tokens that an instruction may have.
        size: Side in pixels to which images are resized; ``None`` keeps the model's own.

    Raises:
        ValueError: If there is no such processor, or it cannot be asked for this.
    """

    def __init__(self, source: str, prompt: str, words: int, size: int | None) -> None:
        try:
            self.processor: Any = transformers.AutoProcessor.from_pretrained(source, **_TEXT_ONLY)
            self._config = transformers.AutoConfig.from_pretrained(source, **_TEXT_ONLY)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"no vision-language model could be read from {source!r}: {_first_line(error)}. "
                "Name a model of the Hugging Face hub (and be online, or have it in the cache) or "
                "a folder that holds its config.json, weights and processor files"
            ) from error
        self._source, self._prompt, self._words = source, prompt, words
        self._one_image = self._config.model_type in _ONE_IMAGE
        self._settings = dict(self._resized(size))
        known = self.processor.image_processor
        self._settings |= {name: off for name, off in _WHOLE.items() if name in known.to_dict()}
        before, _, after = prompt.partition(IMAGES)
        if before.strip() and not self.processor.chat_template:
            raise ValueError(
                f"prompt {prompt!r} has words before the images, but {source!r} has no chat "
                f"template and puts images first: begin the prompt with {IMAGES}"
            )
        self._before, self._after = before, after

    def __deepcopy__(self, memo: dict[int, Any]) -> Prompter:
        """It never changes, so copies of a policy share it."""
        return self

    def describe(self, spaces: Spaces) -> Description:
        """The model for the views of ``spaces``; ``words`` and the prompt are part of it."""
        views = 1 if self._one_image else len(spaces.views)
        blank = np.zeros((1, len(spaces.views), spaces.image_size, spaces.image_size, 3), np.uint8)
        inputs = self._inputs("", blank[0])
        settings = self.processor.image_processor
        images = settings(
            images=pictures(torch.from_numpy(blank), views),
            return_tensors="pt",
            **self._settings,
        )
        tokenizer = self.processor.tokenizer
        image_token = tokenizer.convert_tokens_to_ids(str(self.processor.image_token))
        ids = inputs["input_ids"]
        image_tokens = int((ids == image_token).sum())
        if not image_tokens or image_tokens % views:
            raise ValueError(
                f"{self._source!r} makes {image_tokens} image tokens of {views} pictures, which is "
                "no equal number for each; choose another model or other cameras"
            )
        names = [n for n, v in inputs.items() if _like_ids(v, ids) and n != "labels"]
        return Description(
            config=json.loads(self._config.to_json_string(use_diff=False)),
            image_processor=json.loads(settings.to_json_string()),
            image_settings=self._settings,
            text_inputs=names,
            length=ids.shape[1] + self._words,
            padding={"input_ids": tokenizer.pad_token_id or 0},
            constants={
                name: value.tolist() for name, value in images.items() if name == "image_grid_thw"
            },
            cameras=len(spaces.views),
            image_size=spaces.image_size,
            views=views,
            image_token=image_token,
            image_tokens=image_tokens,
        )

    def encode(self, sentences: Sequence[str], about: Description, spaces: Spaces) -> Floats:
        """``[n, inputs * length]``: the token ids and their companions of each sentence.

        Raises:
            ValueError: If an instruction is longer than the room for it.
        """
        blank = np.zeros((len(spaces.views), spaces.image_size, spaces.image_size, 3), np.uint8)
        rows = []
        for sentence in sentences:
            inputs = self._inputs(sentence, blank)
            given = inputs["input_ids"].shape[1]
            if given > about.length:
                raise ValueError(
                    f"instruction {sentence!r} needs {given - about.length} tokens more than the "
                    f"{self._words} of `words`; raise it to {self._words + given - about.length}"
                )
            row = np.zeros((len(about.text_inputs), about.length), np.float32)
            for i, name in enumerate(about.text_inputs):
                row[i] = about.padding.get(name, 0)
                row[i, :given] = inputs[name][0].numpy()
            rows.append(row.reshape(-1))
        return np.stack(rows)

    def plain_words(self) -> list[int]:
        """Ids of the tokens that are no special ones and have an embedding, ascending."""
        tokenizer = self.processor.tokenizer
        special = {
            tokenizer.convert_tokens_to_ids(str(self.processor.image_token)),
            *tokenizer.all_special_ids,
            *(i for i, token in tokenizer.added_tokens_decoder.items() if token.special),
        }
        rows = self._config.get_text_config().vocab_size
        return [i for i in sorted(set(tokenizer.get_vocab().values()) - special) if i < rows]

    def save(self, folder: Path) -> None:
        """Write what another prompter can be made of."""
        self._config.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def _inputs(self, instruction: str, images: np.ndarray) -> Mapping[str, Any]:
        """What the processor makes of one sentence and the images of one observation."""
        shown = [Image.fromarray(image) for image in _side_by_side(images, self._one_image)]
        before = self._before.replace(INSTRUCTION, instruction)
        after = self._after.replace(INSTRUCTION, instruction)
        if self.processor.chat_template:
            content = [{"type": "image", "image": image} for image in shown]
            said = [{"type": "text", "text": text} if text else None for text in (before, after)]
            turn = [*filter(None, said[:1]), *content, *filter(None, said[1:])]
            found: Mapping[str, Any] = self.processor.apply_chat_template(
                [{"role": "user", "content": turn}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"images_kwargs": self._settings},
            )
            return found
        text = self._placeholders(len(shown)) + after
        inputs: Mapping[str, Any] = self.processor(
            text=[text], images=[shown], return_tensors="pt", images_kwargs=self._settings
        )
        return inputs

    def _placeholders(self, images: int) -> str:
        """Some processors without a chat template put the images in themselves."""
        if self._one_image:
            return ""
        return str(self.processor.image_token) * images

    def _resized(self, size: int | None) -> dict[str, Any]:
        """Call arguments for another image size; also sets the number of tokens of an image."""
        if size is None:
            return {}
        kind, config = self._config.model_type, self._config
        if kind not in _SIZES:
            raise ValueError(
                f"size {size}: {self._source!r} ({kind}) takes images of its own size only; "
                f"leave size out. It can be chosen for {', '.join(sorted(_SIZES))}"
            )
        patch = config.vision_config.patch_size
        if kind == "internvl":
            side = size // patch[0]
            self.processor.image_seq_length = int(side**2 * config.downsample_ratio**2)
        elif kind in ("smolvlm", "idefics3"):
            self.processor.image_seq_len = (size // patch) ** 2 // config.scale_factor**2
        return _SIZES[kind](size)


class ImageInputs:
    """Images of observations as the tensors that a model wants; needs no tokenizer."""

    def __init__(self, about: Description) -> None:
        self._about = about
        with tempfile.TemporaryDirectory() as folder:
            settings = json.dumps(about.image_processor)
            (Path(folder) / "preprocessor_config.json").write_text(settings)
            self._processor: Any = transformers.AutoImageProcessor.from_pretrained(folder)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """``[B, V, h, w, 3]`` uint8 to the model's image tensors, on the same device."""
        found: Mapping[str, Any] = self._processor(
            images=pictures(images, self._about.views),
            return_tensors="pt",
            device=images.device,
            **self._about.image_settings,
        )
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def pictures(images: Tensor, views: int) -> list[list[Tensor]]:
    """``[B, V, h, w, 3]`` as B lists of ``views`` pictures ``[3, h, w']``."""
    if views == 1 and images.shape[1] > 1:
        images = torch.cat(images.unbind(1), dim=2)[:, None]
    return [list(row) for row in images.permute(0, 1, 4, 2, 3)]


def _side_by_side(images: np.ndarray, joined: bool) -> list[np.ndarray]:
    return [np.concatenate(list(images), axis=1)] if joined else list(images)


def _without_dropout(settings: Any) -> Any:
    """The log-probabilities of an update must be those at acting."""
    if not isinstance(settings, dict):
        return settings
    return {
        name: 0.0 if "dropout" in name and isinstance(value, float) else _without_dropout(value)
        for name, value in settings.items()
    }


def _like_ids(value: Any, ids: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == ids.shape


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
