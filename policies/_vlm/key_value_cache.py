"""Keys and values that a transformers model goes on from, under the name that its version takes."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn


def goes_on_from(model: nn.Module, cache: Any) -> dict[str, Any]:
    """The argument for a call of ``model``: ``cache``, or ``past_key_values`` before 5.20 or so."""
    known = inspect.signature(model.forward).parameters
    return {"cache" if "cache" in known else "past_key_values": cache}
