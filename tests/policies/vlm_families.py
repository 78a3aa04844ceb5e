"""Tiny random models of the image-text-to-text families, as folders like a hub checkout.

Tests have no network, so the code that loads "any transformers model" is tried on the real classes
with a few thousand random weights. Each folder holds what a hub folder holds: ``config.json``,
``model.safetensors``, the processor's and the tokenizer's files, and the chat template where the
family has one. Settings that change what comes out of a processor (tiles, crops, side of the
padding) are the library's defaults for the family; only sizes are small.

SmolVLM needs the package num2words. PaliGemma, LFM2-VL and FastVLM need transformers 5.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

FamilyBuilder = Callable[[Path], None]

SEED = 0
GAIN, NOISE = 1.4, 0.1
"""What is added to the weights: some layers start at zero, and would hide the image or the text.

A matrix or a convolution gets the standard deviation GAIN over the root of its inputs, so signals
neither fade nor grow from layer to layer; a bias or a scale gets NOISE.
"""
IMAGE, PATCH = 32, 8
"""Height and width in pixels of what the vision towers see, and of their patches."""
WIDTH, HEADS, LAYERS = 32, 2, 3
POSITIONS = 512
_VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": IMAGE,
    "patch_size": PATCH,
}
_SQUARE = {"height": IMAGE, "width": IMAGE}
_LETTERS = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]

ONE_IMAGE = frozenset({"blip_2", "florence2"})
"""Families whose processors put the one image of a sample before the text by themselves."""


def build(name: str, folder: Path) -> Path:
    """Writes the tiny model of a family into ``folder``, which is made, and returns ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    FAMILIES[name](folder)
    return folder


def make_tokenizer(
    *extra: str,
    named: dict[str, str] | None = None,
    starts: bool = False,
    kind: Callable[..., tf.PreTrainedTokenizerFast] = tf.PreTrainedTokenizerFast,
    padding_side: str = "right",
) -> tf.PreTrainedTokenizerFast:
    """Bytes as tokens 3 to 258, so every sentence has ids of its own, then the special tokens.

    Args:
        extra: Special tokens without a name.
        named: Special tokens with the name under which a processor looks for them, as
            ``{"image_token": "<image>"}``.
        starts: Whether every text begins with ``<s>``.
        kind: The family's own class of byte-level tokenizers, where it has one.
        padding_side: "left" where the family's own class, as Llama's and Gemma's, pads there.
    """
    named = named or {}
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(_LETTERS)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [*_LETTERS[:3], *dict.fromkeys((*named.values(), *extra))]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    if starts:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return kind(
        tokenizer_object=tokenizer,
        padding_side=padding_side,
        model_input_names=["input_ids", "attention_mask"],
        unk_token="<pad>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=named,
    )


def chat(user: str, image: str, end: str, assistant: str) -> str:
    """A chat template: one turn is ``user``, its images and texts in order, then ``end``."""
    return (
        "{% for message in messages %}"
        f"{{{{ {user!r} if message['role'] == 'user' else {assistant!r} }}}}"
        "{% for part in message['content'] %}"
        f"{{{{ {image!r} if part['type'] == 'image' else part['text'] }}}}"
        f"{{% endfor %}}{{{{ {end!r} }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {assistant!r} }}}}{{% endif %}}"
    )


def _id(tokenizer: tf.PreTrainedTokenizerFast, token: str) -> int:
    found: Any = tokenizer.convert_tokens_to_ids(token)
    return int(found)


def _text(tokenizer: tf.PreTrainedTokenizerFast, **settings: Any) -> dict[str, Any]:
    """What the decoders of all families have in common."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **settings,
    }


def _save(folder: Path, processor: tf.ProcessorMixin, config: tf.PreTrainedConfig) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = tf.AutoModelForImageTextToText.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                scale = NOISE if parameter.ndim < 2 else GAIN * parameter[0].numel() ** -0.5
                parameter.add_(scale * torch.randn_like(parameter))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _split_tokenizer() -> tf.PreTrainedTokenizerFast:
    grid = [f"<row_{row}_col_{col}>" for row in range(1, 5) for col in range(1, 5)]
    named = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    return make_tokenizer("<|im_start|>", *grid, named=named)


_SPLIT_SIZES: dict[str, Any] = {
    "size": {"longest_edge": 2 * IMAGE},
    "max_image_size": {"longest_edge": IMAGE},
}
_SPLIT_CHAT = chat("<|im_start|>User:", "<image>", "<end_of_utterance>\n", "Assistant:")
_SPLIT_FACTOR = 2
_SPLIT_TOKENS = (IMAGE // PATCH // _SPLIT_FACTOR) ** 2


def smolvlm(folder: Path) -> None:
    """Tiles of 4 tokens: five for a square image, or one without ``do_image_splitting``."""
    tokenizer = _split_tokenizer()
    processor = tf.SmolVLMProcessor(
        tf.SmolVLMImageProcessor(**_SPLIT_SIZES),
        tokenizer,
        tf.SmolVLMVideoProcessor(**_SPLIT_SIZES, fps=1, num_frames=4),
        image_seq_len=_SPLIT_TOKENS,
        chat_template=_SPLIT_CHAT,
    )
    config = tf.SmolVLMConfig(
        text_config={"model_type": "llama", **_text(tokenizer)},
        vision_config=_VISION,
        scale_factor=_SPLIT_FACTOR,
        image_token_id=_id(tokenizer, "<image>"),
    )
    _save(folder, processor, config)


def paligemma(folder: Path) -> None:
    """16 tokens for an image. The processor adds 1,152 tokens for places: they are in the model."""
    tokenizer = make_tokenizer(named={"image_token": "<image>"}, padding_side="left")
    images: Any = tf.SiglipImageProcessor(size=_SQUARE)
    images.image_seq_length = (IMAGE // PATCH) ** 2
    processor = tf.PaliGemmaProcessor(images, tokenizer)
    config = tf.PaliGemmaConfig(
        text_config={"model_type": "gemma", **_text(tokenizer, head_dim=WIDTH // HEADS)},
        vision_config={"model_type": "siglip_vision_model", **_VISION, "vision_use_head": False},
        image_token_index=_id(tokenizer, "<image>"),
        vocab_size=len(tokenizer),
        projection_dim=WIDTH,
        hidden_size=WIDTH,
    )
    _save(folder, processor, config)


def qwen2_5_vl(folder: Path) -> None:
    """The number of tokens follows the image's size: 16 for 64 x 64 pixels, which is the most."""
    tokenizer, processor_parts = _qwen_tokenizer(), _qwen_images()
    processor = tf.Qwen2_5_VLProcessor(
        tf.Qwen2VLImageProcessor(**processor_parts),
        tokenizer,
        tf.Qwen2VLVideoProcessor(**processor_parts),
        chat_template=_QWEN_CHAT,
    )
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3]}
    config = tf.Qwen2_5_VLConfig(
        text_config=_text(tokenizer, rope_scaling=rope),
        vision_config={
            **_qwen_vision(),
            "out_hidden_size": WIDTH,
            "window_size": 4 * PATCH,
            "fullatt_block_indexes": [1],
        },
        **_qwen_ids(tokenizer),
    )
    _save(folder, processor, config)


_QWEN_CHAT = chat(
    "<|im_start|>user\n",
    "<|vision_start|><|image_pad|><|vision_end|>",
    "<|im_end|>\n",
    "<|im_start|>assistant\n",
)


def _qwen_tokenizer() -> tf.PreTrainedTokenizerFast:
    vision = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    kind: Any = tf.Qwen2TokenizerFast  # type: ignore[attr-defined]  # a name made at run time
    return make_tokenizer("<|im_start|>", "<|im_end|>", *vision, kind=kind)


def _qwen_images() -> dict[str, Any]:
    size = {"shortest_edge": (2 * PATCH) ** 2, "longest_edge": (2 * IMAGE) ** 2}
    return {"size": size, "patch_size": PATCH, "temporal_patch_size": 2, "merge_size": 2}


def _qwen_vision() -> dict[str, Any]:
    return {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": PATCH,
        "spatial_merge_size": 2,
    }


def _qwen_ids(tokenizer: tf.PreTrainedTokenizerFast) -> dict[str, Any]:
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {key: _id(tokenizer, token) for key, token in names.items()}


def llava(folder: Path) -> None:
    """A CLIP tower, whose last layer but one gives 16 tokens, and a Llama."""
    tokenizer = make_tokenizer(named={"image_token": "<image>"}, starts=True, padding_side="left")
    processor = tf.LlavaProcessor(
        tf.CLIPImageProcessor(size={"shortest_edge": IMAGE}, crop_size=_SQUARE),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat("USER: ", "<image>\n", " ", "ASSISTANT:"),
    )
    config = tf.LlavaConfig(
        text_config={"model_type": "llama", **_text(tokenizer)},
        vision_config={"model_type": "clip_vision_model", **_VISION},
        image_token_index=_id(tokenizer, "<image>"),
        image_seq_length=(IMAGE // PATCH) ** 2,
    )
    _save(folder, processor, config)


def blip_2(folder: Path) -> None:
    """A Q-Former that gives 4 tokens for the one image of a sample, and OPT."""
    queries = 4
    tokenizer = make_tokenizer("<image>", starts=True)
    images = tf.BlipImageProcessor(size=_SQUARE)
    processor = tf.Blip2Processor(images, tokenizer, num_query_tokens=queries)
    config = tf.Blip2Config(
        text_config={
            "model_type": "opt",
            **_text(tokenizer, word_embed_proj_dim=WIDTH, ffn_dim=2 * WIDTH),
        },
        vision_config={**_VISION, "initializer_range": 0.02},
        qformer_config={
            "vocab_size": 8,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        num_query_tokens=queries,
        image_token_index=_id(tokenizer, "<image>"),
    )
    _save(folder, processor, config)


def idefics3(folder: Path) -> None:
    """As SmolVLM: the same processor with its own classes."""
    tokenizer = _split_tokenizer()
    processor = tf.Idefics3Processor(
        tf.Idefics3ImageProcessor(**_SPLIT_SIZES),
        tokenizer,
        image_seq_len=_SPLIT_TOKENS,
        chat_template=_SPLIT_CHAT,
    )
    config = tf.Idefics3Config(
        text_config={"model_type": "llama", **_text(tokenizer)},
        vision_config=_VISION,
        scale_factor=_SPLIT_FACTOR,
        image_token_id=_id(tokenizer, "<image>"),
    )
    _save(folder, processor, config)


def gemma3(folder: Path) -> None:
    """4 tokens for an image, which see each other, between layers with a window and without."""
    named = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    turns = ("<start_of_turn>", "<end_of_turn>")
    tokenizer = make_tokenizer(*turns, named=named, starts=True, padding_side="left")
    tokens = 4
    processor = tf.Gemma3Processor(
        tf.Gemma3ImageProcessor(size=_SQUARE),
        tokenizer,
        image_seq_length=tokens,
        chat_template=chat(
            "<start_of_turn>user\n",
            "<start_of_image>",
            "<end_of_turn>\n",
            "<start_of_turn>model\n",
        ),
    )
    config = tf.Gemma3Config(
        text_config=_text(
            tokenizer,
            head_dim=WIDTH // HEADS,
            query_pre_attn_scalar=WIDTH // HEADS,
            sliding_window=16,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        ),
        vision_config={"model_type": "siglip_vision_model", **_VISION, "vision_use_head": False},
        mm_tokens_per_image=tokens,
        boi_token_index=_id(tokenizer, "<start_of_image>"),
        eoi_token_index=_id(tokenizer, "<end_of_image>"),
        image_token_index=_id(tokenizer, "<image_soft_token>"),
    )
    _save(folder, processor, config)


def qwen3_vl(folder: Path) -> None:
    """As Qwen2.5-VL, with features of a middle vision layer added inside the decoder."""
    tokenizer, processor_parts = _qwen_tokenizer(), _qwen_images()
    processor = tf.Qwen3VLProcessor(
        tf.Qwen2VLImageProcessor(**processor_parts),
        tokenizer,
        tf.Qwen3VLVideoProcessor(**processor_parts),
        chat_template=_QWEN_CHAT,
    )
    rope = {"rope_type": "default", "mrope_section": [4, 2, 2]}
    config = tf.Qwen3VLConfig(
        text_config=_text(tokenizer, head_dim=WIDTH // HEADS, rope_scaling=rope),
        vision_config={
            **_qwen_vision(),
            "out_hidden_size": WIDTH,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        **_qwen_ids(tokenizer),
    )
    _save(folder, processor, config)


def internvl(folder: Path) -> None:
    """Tiles of 4 tokens: five for a square image of 64 pixels, or one without crops."""
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer, tokens = make_tokenizer("<|im_start|>", "<|im_end|>", named=named), 4
    processor = tf.InternVLProcessor(
        tf.GotOcr2ImageProcessor(size=_SQUARE, crop_to_patches=True),
        tokenizer,
        tf.InternVLVideoProcessor(size=_SQUARE),
        image_seq_length=tokens,
        chat_template=chat(
            "<|im_start|>user\n", "<IMG_CONTEXT>\n", "<|im_end|>\n", "<|im_start|>assistant\n"
        ),
    )
    config = tf.InternVLConfig(
        text_config={"model_type": "qwen2", **_text(tokenizer)},
        vision_config=_VISION,
        image_token_id=_id(tokenizer, "<IMG_CONTEXT>"),
        image_seq_length=tokens,
    )
    _save(folder, processor, config)


def llava_onevision(folder: Path) -> None:
    """17 tokens for each of several images, but 88 for one image alone: it comes in tiles too."""
    tokenizer = make_tokenizer(
        "<|im_start|>", "<|im_end|>", named={"image_token": "<image>", "video_token": "<video>"}
    )
    sizes = [[IMAGE, IMAGE], [IMAGE, 2 * IMAGE], [2 * IMAGE, IMAGE], [2 * IMAGE, 2 * IMAGE]]
    processor = tf.LlavaOnevisionProcessor(
        tf.LlavaOnevisionImageProcessor(size=_SQUARE, image_grid_pinpoints=sizes),
        tokenizer,
        tf.LlavaOnevisionVideoProcessor(size=_SQUARE),
        num_image_tokens=(IMAGE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=chat(
            "<|im_start|>user ", "<image>\n", "<|im_end|>", "<|im_start|>assistant\n"
        ),
    )
    config = tf.LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **_text(tokenizer)},
        vision_config={"model_type": "siglip_vision_model", **_VISION, "vision_use_head": False},
        image_token_index=_id(tokenizer, "<image>"),
        video_token_index=_id(tokenizer, "<video>"),
        image_grid_pinpoints=sizes,
    )
    _save(folder, processor, config)


def florence2(folder: Path) -> None:
    """5 tokens for the one image of a sample (one of them the mean), an encoder and a decoder."""
    stride = 32
    tokenizer = make_tokenizer(
        "<mask>", named={"image_token": "<image>"}, kind=tf.BartTokenizerFast
    )
    images: Any = tf.CLIPImageProcessor(
        size={"height": 2 * IMAGE, "width": 2 * IMAGE}, do_center_crop=False
    )
    images.image_seq_length = (2 * IMAGE // stride) ** 2 + 1
    config = tf.Florence2Config(
        text_config={
            "model_type": "bart",
            "vocab_size": len(tokenizer),
            "d_model": WIDTH,
            "encoder_layers": LAYERS,
            "decoder_layers": LAYERS,
            "encoder_attention_heads": HEADS,
            "decoder_attention_heads": HEADS,
            "encoder_ffn_dim": 2 * WIDTH,
            "decoder_ffn_dim": 2 * WIDTH,
            "max_position_embeddings": POSITIONS,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": 2,
        },
        vision_config={
            "embed_dim": [8, 8, 16, 16],
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 2],
            "num_groups": [1, 1, 2, 2],
            "window_size": 4,
            "projection_dim": WIDTH,
        },
        image_token_id=_id(tokenizer, "<image>"),
    )
    _save(folder, tf.Florence2Processor(images, tokenizer), config)


def lfm2_vl(folder: Path) -> None:
    """16 tokens for an image of 64 pixels; convolutions between the layers with attention."""
    named = {
        "image_token": "<image>",
        "image_start_token": "<|image_start|>",
        "image_end_token": "<|image_end|>",
        "image_thumbnail": "<|img_thumbnail|>",
    }
    grid = [f"<|img_row_{row}_col_{col}|>" for row in range(1, 5) for col in range(1, 5)]
    tokenizer = make_tokenizer("<|im_start|>", "<|im_end|>", *grid, named=named)
    processor = tf.Lfm2VlProcessor(
        tf.Lfm2VlImageProcessor(
            encoder_patch_size=PATCH,
            tile_size=2 * IMAGE,
            size={"height": 2 * IMAGE, "width": 2 * IMAGE},
            min_image_tokens=4,
            max_image_tokens=16,
        ),
        tokenizer,
        chat_template=chat(
            "<s><|im_start|>user\n", "<image>", "<|im_end|>\n", "<|im_start|>assistant\n"
        ),
    )
    layers = ["conv", "full_attention", "conv"]
    vision = {key: value for key, value in _VISION.items() if key != "image_size"}
    config = tf.Lfm2VlConfig(
        text_config={
            "model_type": "lfm2",
            **_text(tokenizer, layer_types=layers, block_auto_adjust_ff_dim=False),
        },
        vision_config={
            "model_type": "siglip2_vision_model",
            **vision,
            "num_patches": (2 * IMAGE // PATCH) ** 2,
            "vision_use_head": False,
        },
        image_token_id=_id(tokenizer, "<image>"),
        projector_hidden_size=WIDTH,
    )
    _save(folder, processor, config)


def fast_vlm(folder: Path) -> None:
    """A convolutional tower of timm, 4 tokens for an image, and the processor of LLaVA."""
    tokenizer = make_tokenizer("<|im_start|>", "<|im_end|>", named={"image_token": "<image>"})
    size, stride, widths = 2 * IMAGE, 32, [8, 8, 16, 32]
    processor = tf.LlavaProcessor(
        tf.CLIPImageProcessor(
            size={"shortest_edge": size},
            crop_size={"height": size, "width": size},
            image_mean=[0.0, 0.0, 0.0],
            image_std=[1.0, 1.0, 1.0],
        ),
        tokenizer,
        patch_size=stride,
        vision_feature_select_strategy="full",
        chat_template=chat(
            "<|im_start|>user\n", "<image>\n", "<|im_end|>\n", "<|im_start|>assistant\n"
        ),
    )
    config = tf.FastVlmConfig(
        text_config={"model_type": "qwen2", **_text(tokenizer)},
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": "fastvit_mci0",
            "do_pooling": True,
            "global_pool": "avg",
            "hidden_size": widths[-1] * 2,
            "model_args": {"inference_mode": True, "layers": [1, 1, 1, 1], "embed_dims": widths},
        },
        image_token_index=_id(tokenizer, "<image>"),
        image_seq_length=(size // stride) ** 2,
    )
    _save(folder, processor, config)


FAMILIES: dict[str, FamilyBuilder] = {
    builder.__name__: builder
    for builder in (
        smolvlm,
        idefics3,
        paligemma,
        gemma3,
        qwen2_5_vl,
        qwen3_vl,
        internvl,
        llava,
        llava_onevision,
        blip_2,
        florence2,
        lfm2_vl,
        fast_vlm,
    )
}
