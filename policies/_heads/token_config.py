"""Settings of a policy that generates actions as tokens of a language model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from vla_rl.plugins import unknown
from vla_rl.policies._backbones.config import VisionLanguageConfig
from vla_rl.policies._context import text_encoders, token_learners
from vla_rl.policies._heads.config import check_network


@dataclass(frozen=True)
class Config:
    """Settings of the policy that generates actions as tokens."""

    backbone: VisionLanguageConfig = field(default_factory=VisionLanguageConfig)
    """The vision-language model, `vlm:MODEL`, by hub name or folder; one with a single stack of
    decoder layers."""
    chunk: int = 8
    """Low-level actions per decision, H; acting takes H * A passes of one token each."""
    bins: int = 256
    """Equal intervals of [-1, 1], each with a token of its own."""
    temperature: float = 1.0
    """What scores are divided by before they become probabilities, at acting and in updates; above
    1 explores more than what was cloned."""
    state_tokens: bool = True
    """Let proprioception follow the prompt as tokens, by the intervals of the actions."""
    text: str = "minilm"
    """Frozen text encoder for the critic: "minilm" or "hash" (hashed words, no weights)."""
    text_width: int = 32
    """Width of the critic's instruction embedding."""
    token_learner: str = "project"
    """From image tokens to the critic: "project" or "attention" (for many tokens)."""
    tokens: int = 1
    """Tokens per view that the critic's token learner makes."""
    width: int = 128
    """Width of such a token."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of the critic."""
    action_ids: Annotated[tuple[int, ...], tyro.conf.Suppress] = ()
    """Filled in: ids of the tokens of the intervals, so that a saved policy needs no tokenizer."""

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise ValueError(f"bins {self.bins} is outside the allowed range 2, 3, ...")
        if len(self.action_ids) not in (0, self.bins):
            raise ValueError(
                f"bins {self.bins} do not fit the {len(self.action_ids)} action_ids that were "
                "chosen before; leave action_ids out to choose them anew"
            )
        if not self.temperature > 0:
            raise ValueError(
                f"temperature {self.temperature} is outside the allowed range (0, inf)"
            )
        check_network(self.chunk, self.hidden)
        token_learners.check(self.token_learner, self.tokens, self.width)
        if self.text not in text_encoders.ENCODERS:
            raise ValueError(unknown("text encoder", self.text, text_encoders.ENCODERS))
        if self.text_width < 1:
            raise ValueError(f"text_width {self.text_width} is outside the allowed range 1, 2, ...")
