"""What pi0 is, and what it reads: token ids of a sentence, made by the processor of transformers.

As with other vision-language models the processor is asked in the main process only, once per
sentence; workers and saved policies live on a plain-text :class:`Description`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import transformers
from packaging.version import Version

from vla_rl.policies._vlm.inputs import Description
from vla_rl.types import Floats, Spaces

NEEDED = "5.4.0"  # the first transformers with pi0
IDS, PAST_THE_END = "input_ids", -1


class Reading(NamedTuple):
    """Where a model and its processor are, and how many tokens an instruction may have."""

    model: str
    processor: str
    words: int


class Reader:
    """The settings and the processor of a pi0.

    Raises:
        ValueError: If transformers is too old, there is no such model, or it is no pi0.
    """

    def __init__(self, reading: Reading) -> None:
        check_version()
        self._reading = reading
        try:
            settings, _ = transformers.PI0Config.get_config_dict(reading.model)
            # LeRobot's own config.json says "type".
            kind = settings.get("model_type", settings.get("type"))
            if kind != "pi0":
                raise ValueError(f"it is a {kind!r}, not a 'pi0'")
            self._config: Any = transformers.PI0Config.from_dict(settings)
            self._processor: Any = transformers.PI0Processor.from_pretrained(
                reading.processor or reading.model
            )
        except (OSError, ValueError) as error:
            raise ValueError(
                f"no pi0 could be read from model {reading.model!r}, processor "
                f"{reading.processor!r}: {str(error).strip().partition(chr(10))[0]}. Name a pi0 of "
                "the Hugging Face hub (and be online, or have it in the cache) or a folder that "
                "holds its config.json and weights; where these carry no tokenizer and image "
                "processor, name as processor what does, for instance google/paligemma-3b-pt-224"
            ) from error

    def describe(self, spaces: Spaces) -> Description:
        """The model for the views of ``spaces``."""
        vision = self._config.vlm_config.vision_config
        pieces = (vision.image_size // vision.patch_size) ** 2
        return Description(
            config=json.loads(self._config.to_json_string(use_diff=False)),
            image_processor=json.loads(self._processor.image_processor.to_json_string()),
            image_settings={},
            text_inputs=[IDS],
            length=len(self._ids("")) + self._reading.words,
            padding={IDS: PAST_THE_END},
            constants={},
            cameras=len(spaces.views),
            image_size=spaces.image_size,
            views=len(spaces.views),
            image_token=self._processor.image_token_id,
            image_tokens=len(spaces.views) * pieces,
        )

    def encode(self, sentences: Sequence[str], length: int) -> Floats:
        """Ids of the tokens that follow the images, ``[n, length]``, filled up with -1.

        Raises:
            ValueError: If an instruction is longer than the room for it.
        """
        rows = np.full((len(sentences), length), PAST_THE_END, np.float32)
        for row, sentence in zip(rows, sentences, strict=True):
            ids = self._ids(sentence)
            if len(ids) > length:
                words = self._reading.words
                raise ValueError(
                    f"instruction {sentence!r} needs {len(ids) - length} tokens more than the "
                    f"{words} of vlm_words; raise it to {words + len(ids) - length}"
                )
            row[: len(ids)] = ids
        return rows

    def save(self, folder: Path) -> None:
        """Write what another reader can be made of."""
        self._config.save_pretrained(folder)
        self._processor.save_pretrained(folder)

    def _ids(self, sentence: str) -> list[int]:
        """What the processor writes after the images, which it cannot be asked for alone."""
        tokenizer = self._processor.tokenizer
        text = f"{tokenizer.bos_token}{sentence}\n"
        words: list[int] = tokenizer(text, add_special_tokens=False)[IDS]
        return words


@lru_cache(maxsize=4)
def reader(reading: Reading) -> Reader:
    """The reader, made once."""
    return Reader(reading)


def describe(reading: Reading, spaces: Spaces, known: str) -> Description:
    """What a model is: its description ``known`` as text, or else what is read from its files.

    Raises:
        ValueError: See :class:`Reader`.
    """
    return Description.from_json(known) if known else reader(reading).describe(spaces)


def check_version() -> None:
    """Refuse a transformers without pi0.

    Raises:
        ValueError: If the installed version is too old.
    """
    if Version(transformers.__version__) < Version(NEEDED):
        raise ValueError(
            f"the policy pi0 needs transformers {NEEDED} or newer, but {transformers.__version__} "
            f'is installed: pip install -U "transformers>={NEEDED}"'
        )
