"""LeRobot's ACT: a transformer that regresses a chunk, with a likelihood around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from lerobot.policies.act.modeling_act import ACT
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE
from torch import Generator, Tensor, nn

from vla_rl.functional.density import laplace_logprob
from vla_rl.policies._backbones.backbone import Grid
from vla_rl.policies._heads.config import LaplaceConfig, Size
from vla_rl.policies._heads.correlated import CorrelatedHead
from vla_rl.policies._heads.laplace import Laplace, LaplaceHead, scale_network
from vla_rl.policies._lerobot.body import ActionScale, Body, Seen
from vla_rl.policies._lerobot.description import Description

SAVED_AS = "model"


def network(about: Description) -> Any:
    """The network as LeRobot makes it.

    Raises:
        ValueError: If weights of its vision backbone cannot be fetched.
    """
    try:
        return ACT(about.config())
    except OSError as error:
        raise ValueError(
            f"the pretrained backbone of a new ACT cannot be fetched ({error}); start it at "
            "random: --net.options pretrained_backbone_weights=null"
        ) from error


class ActHead(LaplaceHead):
    """A Laplace law around ACT's chunk, as RIPT-VLA's around a regressed one.

    The means are the first H steps of ACT's own, in the suite's units. Another network predicts
    ``log b`` from the decoder's state of a step (detached); see :class:`LaplaceHead`. ACT's
    variational encoder works in imitation only; acting takes the mean of its prior, as in
    LeRobot.
    """

    def __init__(
        self, config: LaplaceConfig, size: Size, net: Any, grid: Grid, map_size: tuple[int, int]
    ) -> None:
        CorrelatedHead.__init__(self, config, size.horizon, size.action_dim)
        self.std = config.std
        self.grid, self.map_size = grid, map_size
        self.net, self.mean = net, net.action_head
        net.action_head = nn.Identity()  # so that the network gives the states behind the actions
        self.actions = ActionScale(size.action_dim)
        self.log_scale = scale_network(
            config.std, net.config.dim_model, size.hidden, size.action_dim
        )

    def forward(self, context: Tensor) -> Laplace:
        """The law given a context ``[B, D]``."""
        states, _ = self.net(self._inputs(context))
        return self._law(states[:, : self.horizon])

    def imitation_loss(
        self,
        context: Tensor,
        text: Tensor,
        actions: Tensor,
        mask: Tensor,
        generator: Generator | None = None,
    ) -> Tensor:
        """ACT's loss, plus the negative log-likelihood of the scale, which depends on its means.

        ACT's is the L1 error of normalised actions ``[B, H, A]`` where ``mask`` ``[B, H]``, plus
        the divergence of its latent from the prior. Dropout stays off, as everywhere here.
        ``generator`` draws the latent.
        """
        with _latent_from(self.net, generator):
            states, (mean, log_variance) = self._encoded(context, actions, mask)
        law = self._law(states[:, : self.horizon])
        weight = mask.repeat_interleave(self.action_dim, dim=1).to(actions.dtype)
        target = torch.where(mask[..., None], actions, torch.zeros_like(actions))
        means = self.actions.normalised(law.mean.view_as(target))
        error = (means - self.actions.normalised(target)).abs()
        surprise = -laplace_logprob(target.flatten(1), law.mean.detach(), law.log_scale)
        loss: Tensor = ((error.flatten(1) + surprise) * weight).sum() / weight.sum().clamp(min=1)
        if mean is not None:
            spread = log_variance.exp()
            divergence = -0.5 * (1 + log_variance - mean.square() - spread).sum(-1).mean()
            loss = loss + self.net.config.kl_weight * divergence
        return loss

    def _law(self, states: Tensor) -> Laplace:
        mean = self.actions.restored(self.mean(states)).flatten(1)
        log_scale = self.log_scale(states.detach()).flatten(1)
        return Laplace(mean, self.bounded_scale(log_scale))

    def _inputs(self, context: Tensor) -> dict[str, Any]:
        grid = self.grid
        size = grid.views * grid.positions * grid.channels
        maps = context[:, :size].view(len(context), *grid).transpose(2, 3)
        maps = maps.reshape(len(context), grid.views, grid.channels, *self.map_size)
        return {OBS_IMAGES: list(maps.unbind(1)), OBS_STATE: context[:, size:]}

    def _encoded(self, context: Tensor, actions: Tensor, mask: Tensor) -> tuple[Tensor, Any]:
        """States of the decoder and the distribution of the latent given the demonstrated chunk."""
        rest = self.net.config.chunk_size - self.horizon
        known = torch.where(mask[..., None], self.actions.normalised(actions), 0.0)
        batch = {
            **self._inputs(context),
            ACTION: F.pad(known, (0, 0, 0, rest)),
            "action_is_pad": F.pad(~mask, (0, rest), value=True),
        }
        # Only this module's flag, which its forward asks for the encoder: not its dropouts'.
        self.net.training = True
        try:
            found: tuple[Tensor, Any] = self.net(batch)
            return found
        finally:
            self.net.training = False


@contextmanager
def _latent_from(net: Any, generator: Generator | None) -> Iterator[None]:
    """Let a generator draw the latent, which LeRobot draws from torch's global one."""
    if generator is None or not net.config.use_vae:
        yield
        return
    said: list[Tensor] = []

    def drawn(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        mean, log_variance = said.pop().chunk(2, dim=1)
        fresh = torch.randn(mean.shape, generator=generator).to(mean.device)
        return (mean + (log_variance / 2).exp() * fresh,)

    law = net.vae_encoder_latent_output_proj
    hooks = [
        law.register_forward_hook(lambda _, given, made: said.append(made)),
        net.encoder_latent_input_proj.register_forward_pre_hook(drawn),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class ActBody(Body):
    """ACT as a ResNet, and what follows it."""

    def __init__(self, about: Description, net: Any, head: LaplaceConfig, size: Size) -> None:
        super().__init__()
        config = about.config()
        shapes = [tuple(feature.shape) for feature in config.image_features.values()]
        if len(set(shapes)) > 1:
            raise ValueError(f"the cameras of this ACT have different shapes: {shapes}")
        if size.horizon > config.chunk_size:
            raise ValueError(f"chunk {size.horizon} is longer than this ACT's, {config.chunk_size}")
        self.image_size = shapes[0][1:]
        self.vision = net.backbone
        net.backbone = Seen()
        with torch.no_grad():
            _, channels, *map_size = self.vision(torch.zeros(1, *shapes[0]))["feature_map"].shape
        self.grid = Grid(len(shapes), map_size[0] * map_size[1], channels)
        self.head = ActHead(head, size, net, self.grid, tuple(map_size))

    def look(self, images: Tensor) -> Tensor:
        """``[B, V, 3, h, w]`` to ``[B, V, P, C]``."""
        maps: Tensor = self.vision(images.flatten(0, 1))["feature_map"]
        return maps.flatten(2).transpose(1, 2).reshape(len(images), *self.grid)

    def context(self, features: Tensor, prompt: Tensor, state: Tensor) -> Tensor:
        """Feature maps and state; ACT reads no words."""
        return torch.cat([features, state], dim=1)

    def backbone(self) -> list[nn.Parameter]:
        """The ResNet's."""
        return list(self.vision.parameters())
