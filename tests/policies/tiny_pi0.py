"""A tiny random pi0 as a folder like a hub checkout: config, weights, processor, tokenizer."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers as tf
from packaging.version import Version

from tests.policies.vlm_families import make_tokenizer
from vla_rl.policies._pi0.inputs import NEEDED

CHUNK, STATE, ACTION = 5, 6, 4
"""What the model has room for: steps of a chunk, dimensions of states and of actions."""
IMAGE, PATCH = 16, 8
WIDTH, EXPERT, LAYERS, HEAD = 32, 32, 2, 8
GAIN, NOISE = 1.0, 0.1


@cache
def folder() -> str:
    """The folder of the model, made once and removed at the end; skips where there is no pi0."""
    if Version(tf.__version__) < Version(NEEDED):
        pytest.skip(f"pi0 needs transformers {NEEDED}")
    made = tempfile.mkdtemp(prefix="tiny-pi0-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return str(build(Path(made)))


def build(target: Path) -> Path:
    """Write the model into a folder that is there.

    As in the other tiny models, weights are large enough that neither images nor words fade.
    """
    tokenizer = make_tokenizer("<image>")
    square = {"height": IMAGE, "width": IMAGE}
    images = tf.PI0ImageProcessor(size=square, pad_size=square)
    images.image_seq_length = (IMAGE // PATCH) ** 2
    processor = tf.PI0Processor(images, tokenizer)
    attention = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": LAYERS}
    text = {
        "model_type": "gemma",
        "vocab_size": len(processor.tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "head_dim": HEAD,
        "pad_token_id": 0,
        **attention,
    }
    config = tf.PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": text,
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": IMAGE,
                "patch_size": PATCH,
                "vision_use_head": False,
            },
            "projection_dim": WIDTH,
            "image_token_id": processor.image_token_id,
        },
        dit_config={
            **text,
            "hidden_size": EXPERT,
            "intermediate_size": 2 * EXPERT,
        },
        chunk_size=CHUNK,
        max_state_dim=STATE,
        max_action_dim=ACTION,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tf.PI0ForConditionalGeneration(config)
        with torch.no_grad():
            for parameter in model.parameters():
                scale = NOISE if parameter.ndim < 2 else GAIN * parameter[0].numel() ** -0.5
                parameter.add_(scale * torch.randn_like(parameter))
    model.save_pretrained(target)
    processor.save_pretrained(target)
    return target
