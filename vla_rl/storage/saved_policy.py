"""Saving and loading policies, in a folder or on the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from huggingface_hub import ModelCard, ModelHubMixin
from torch import Tensor, nn

from vla_rl.config import from_json, to_json
from vla_rl.storage import hub, model_card, pretrained
from vla_rl.types import Floats, Spaces

SavedT = TypeVar("SavedT", bound="SavedPolicy")

MAX_SHARD_SIZE = "2GB"


class SavedPolicy(nn.Module, ModelHubMixin):
    """A module that is saved with its settings, its spaces and its encoded instructions.

    Attributes:
        config_class: A dataclass, the type of ``config``.
        config: Settings.
        spaces: Shapes of observations and actions.
        text_memory: Encoded instructions.
    """

    config_class: ClassVar[type[Any]]
    config: Any
    spaces: Spaces
    text_memory: dict[str, Floats]

    def save_pretrained(  # type: ignore[override]  # what push_to_hub asks of it, and no more
        self,
        folder: str | Path,
        max_shard_size: int | str = MAX_SHARD_SIZE,
        *,
        config: None = None,
        model_card_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Write ``config.json``, safetensors files and a model card (``README.md``).

        Args:
            folder: Where to write; an older policy in it is replaced.
            max_shard_size: Largest size of a file of tensors, in bytes or as text (``"2GB"``).
            config: Must be None, because a policy writes its own.
            model_card_kwargs: Further content of the card; see :meth:`generate_model_card`.
        """
        if config is not None:
            raise ValueError(f"config {config!r}: a policy writes its own config.json")
        self._save_pretrained(Path(folder), max_shard_size)
        card = self.generate_model_card(**(model_card_kwargs or {}))
        card.save(Path(folder) / hub.CARD)

    def _save_pretrained(
        self, save_directory: Path, max_shard_size: int | str = MAX_SHARD_SIZE
    ) -> None:
        tensors = self.state_dict()
        if self.text_memory:
            tensors["text_memory"] = torch.tensor(np.stack(list(self.text_memory.values())))
        pretrained.write(save_directory, tensors, self._description(), max_shard_size)
        self.save_extras(save_directory)

    def _description(self) -> dict[str, Any]:
        return {
            "class": _path(type(self)),
            "config": asdict(self.config),
            "spaces": asdict(self.spaces),
            "sentences": list(self.text_memory),
        }

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The model card; arguments are those of :func:`model_card.render`."""
        return model_card.render(self._description(), *args, **kwargs)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload this policy to the Hugging Face hub; return the URL of the commit.

        ``vla-rl push`` also uploads the world and the evaluations of a saved policy.

        Args:
            repo_id: ``user/name``.
            options: Options of ``huggingface_hub.ModelHubMixin.push_to_hub``: ``private``,
                ``token``, ``branch``, ``commit_message``, ``create_pr``, ``model_card_kwargs``, ...

        Raises:
            ValueError: If the name is invalid or the upload fails; says what to do.
        """
        hub.check_id(repo_id)
        said = {"repo_id": repo_id, **(options.pop("model_card_kwargs", None) or {})}
        # Files of a larger policy that was there before would be read instead of the new ones.
        options = {"delete_patterns": [*hub.FILES], "allow_patterns": [*hub.FILES], **options}
        with hub.refused(repo_id):
            return super().push_to_hub(repo_id, model_card_kwargs=said, **options)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the mixin's hands config.json to __init__
        cls: type[SavedT], source: str | Path, spaces: Spaces | None = None, **options: Any
    ) -> SavedT:
        """Load a saved policy from a folder or from the Hugging Face hub.

        Args:
            source: A folder, or a repository ``user/name`` or ``user/name@revision``.
            spaces: Shapes that the policy must have; ``None`` accepts any.
            options: Options for the hub: ``revision``, ``token``, ``cache_dir``,
                ``force_download``, ``local_files_only``.

        Raises:
            ValueError: If a file is missing or damaged, the class or spaces differ, or a repository
                cannot be read or names modules that are not trusted.
        """
        folder = hub.find(source, **options)
        found = pretrained.describe(folder)
        if found["class"] != _path(cls):
            raise ValueError(f"{folder} holds a {found['class']}, not a {_path(cls)}")
        saved: Spaces = _rebuild(Spaces, found["spaces"], folder)
        if spaces not in (None, saved):
            raise ValueError(f"{folder} was made for {saved}, not for {spaces}")
        config = _rebuild(cls.config_class, cls.upgraded(found["config"]), folder)
        policy = cls.blank(config, saved)
        tensors = pretrained.tensors(folder)
        sentences = found["sentences"]
        memory = tensors.pop("text_memory", torch.zeros(0)).numpy()
        if len(memory) != len(sentences):
            raise ValueError(
                f"{folder} holds {len(memory)} encoded sentences, expected {len(sentences)}"
            )
        policy.text_memory = dict(zip(sentences, memory, strict=True))
        try:
            policy.load_state_dict(_with_aliases(tensors, policy))
        except RuntimeError as error:
            raise ValueError(f"the tensors in {folder} do not fit: {error}") from error
        policy.load_extras(folder)
        return policy

    @classmethod
    def upgraded(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Settings that an earlier version may have written, with the names of today."""
        return config

    @classmethod
    def blank(cls: type[SavedT], config: Any, spaces: Spaces) -> SavedT:
        """A policy whose weights will be overwritten, so no pretrained ones are fetched."""
        return cls(config, spaces)

    def save_extras(self, folder: Path) -> None:
        """Write further files that encoding new instructions needs, such as a tokenizer."""

    def load_extras(self, folder: Path) -> None:
        """Read what :meth:`save_extras` wrote."""


def _path(policy: type[SavedPolicy]) -> str:
    return f"{policy.__module__}.{policy.__qualname__}"


def _with_aliases(tensors: Mapping[str, Tensor], policy: nn.Module) -> dict[str, Tensor]:
    """Add the other names of tensors that share memory, which are saved under one name only."""
    found, by_place = dict(tensors), {}
    own = {name: t for name, t in policy.state_dict().items() if t.numel()}
    for name, tensor in own.items():
        if name in found:
            by_place[tensor.data_ptr()] = found[name]
    for name, tensor in own.items():
        if name not in found and tensor.data_ptr() in by_place:
            found[name] = by_place[tensor.data_ptr()]
    return found


def _rebuild(kind: type[Any], values: dict[str, Any], folder: Path) -> Any:
    """Build a dataclass from JSON; its sequences become tuples."""
    names = {f.name for f in fields(kind)}
    if values.keys() != names:
        odd = sorted(values.keys() ^ names)
        raise ValueError(f"{folder}: fields {', '.join(odd)} do not match {kind.__name__}")
    made = from_json(kind, values)
    found = json.loads(json.dumps(to_json(made)))
    # NaN is no equal of itself, and 1 none of 1.0 by its text.
    same = {k: found[k] == v or repr(found[k]) == repr(v) for k, v in values.items()}
    if odd := sorted(name for name, alike in same.items() if not alike):
        raise ValueError(f"{folder}: settings {', '.join(odd)} do not match {kind.__name__}")
    return made
