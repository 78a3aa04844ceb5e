"""The beginning of a prompt, up to its first image, is read once while a model is frozen.

A causal model's keys and values there depend on nothing but those tokens. This pays where an
instruction (or a long prompt) stands before the images.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vla_rl.policies._vlm.key_value_cache import goes_on_from

# One position per token and no mask besides the causal one.
FAMILIES = ("llava", "smolvlm", "idefics3", "internvl", "fast_vlm")
SHORTEST = 8  # tokens; prompts are read one by one here, which less would not repay
_MOST = 256  # beginnings that are remembered

Look = Callable[[Tensor], Any]


class Prefixes:
    """Keys and values by the token ids of a beginning."""

    def __init__(self, net: Any, image_token: int) -> None:
        """For the model ``net``, whose image tokens have the id ``image_token``."""
        self._net, self._image_token = [net], image_token  # in a list: no module of this object
        self._known: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._weights: tuple[int, ...] = ()

    def serves(self, inputs: Mapping[str, Tensor]) -> bool:
        """Whether every prompt has a beginning worth remembering."""
        starts = (inputs["input_ids"] == self._image_token).int().argmax(1)
        return self._net[0].config.model_type in FAMILIES and int(starts.min()) >= SHORTEST

    def states(self, inputs: Mapping[str, Tensor], look: Look) -> Tensor:
        """Hidden states ``[B, L, C]``; those of the beginnings are zero.

        Args:
            inputs: ``input_ids`` and ``attention_mask``, ``[B, L]``.
            look: From rows ``[n]`` to features of the vision tower.
        """
        self._forget_if_moved()
        ids, lengths = inputs["input_ids"], inputs["attention_mask"].sum(1).tolist()
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, tokens in enumerate(ids.tolist()):
            groups.setdefault(tuple(tokens[: lengths[row]]), []).append(row)
        found: Tensor | None = None
        for tokens, members in groups.items():
            rows = torch.tensor(members, device=ids.device)
            start = tokens.index(self._image_token)
            model = self._net[0].base_model
            part = model(
                input_ids=ids[rows, start : len(tokens)],
                attention_mask=inputs["attention_mask"][rows, : len(tokens)],
                **goes_on_from(model, self._begun(tokens[:start], len(members), ids.device)),
                mm_encoder_outputs={"image": look(rows)},
                use_cache=True,
            ).last_hidden_state
            if found is None:
                found = part.new_zeros(*ids.shape, part.shape[-1])
            found[rows, start : len(tokens)] = part
        assert found is not None  # there is at least one row
        return found

    def _begun(self, tokens: tuple[int, ...], rows: int, device: torch.device) -> Any:
        """A cache of ``rows`` equal beginnings, to go on from."""
        if tokens not in self._known:
            ids = torch.tensor([tokens], device=device)
            out = self._net[0].base_model(input_ids=ids, use_cache=True)
            self._known[tokens] = out.past_key_values
            if len(self._known) > _MOST:
                self._known.popitem(last=False)
        cache = copy.deepcopy(self._known[tokens])
        cache.batch_repeat_interleave(rows)
        return cache

    def _forget_if_moved(self) -> None:
        """Weights that were written to, or went to another device, make other keys and values."""
        net: nn.Module = self._net[0]
        now = tuple(v for p in net.parameters() for v in (p._version, p.data_ptr()))
        if now != self._weights:
            self._known.clear()
            self._weights = now
