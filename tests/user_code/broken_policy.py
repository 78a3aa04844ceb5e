"""tiny with one fault each: what the contract of policies has to find."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from vla_rl.policies import tiny

Config = tiny.Config


class Sound(tiny.Policy):
    """No fault."""


Policy = Sound


class CannotBeMade(Sound):
    def __init__(self, config, spaces):
        raise ValueError("no licence for the network")


class LacksFeatures(Sound):
    @property
    def features(self):
        raise AttributeError("features")


class UnseededWeights(Sound):
    def __init__(self, config, spaces):
        super().__init__(config, spaces)
        with torch.no_grad():
            self.vision.bias.fill_(np.random.random())


# --------------------------------------------------------------------------------- what is trained


class ForgetsTheCritic(Sound):
    def groups(self):
        return {**super().groups(), "critic": []}


class WithoutCriticGroup(Sound):
    def groups(self):
        return {n: group for n, group in super().groups().items() if n != "critic"}


class ListsTwice(Sound):
    def groups(self):
        head = super().groups()["head"]
        return {**super().groups(), "head": [*head, head[0]]}


class ListsWhatIsTrained(Sound):
    def groups(self):
        return {n: [p for p in g if p.requires_grad] for n, g in super().groups().items()}


class DeviationsAreAll(Sound):
    def deviations(self):
        return list(self.head.parameters())


class DetachesFeatures(Sound):
    def context(self, features, text, state):
        return super().context(features.detach(), text, state)


class UnusedLayer(Sound):
    def __init__(self, config, spaces):
        super().__init__(config, spaces)
        self.head.extra = nn.Linear(2, 2)


class CriticTrainsAll(Sound):
    def evaluate(self, obs, instructions, raw, features):
        scores = super().evaluate(obs, instructions, raw, features)
        return replace(scores, value=scores.value + 0 * scores.logprob.sum(1) + self.moved())

    def act(self, obs, instructions, keys):
        chunk = super().act(obs, instructions, keys)
        return replace(chunk, value=chunk.value + self.moved().item())

    def moved(self):
        return self.vision.bias.sum()


class FreezesForEver(Sound):
    def freeze(self, groups):
        already = {n for n, g in self.groups().items() if not all(p.requires_grad for p in g)}
        super().freeze({*groups, *already})
        self.frozen = frozenset(groups)


class ImitatesPadding(Sound):
    def imitation_loss(self, obs, instructions, actions, mask, features=None, generator=None):
        every = np.ones_like(mask)
        return super().imitation_loss(obs, instructions, actions, every, features, generator)


class ImitatesWithGlobalNoise(Sound):
    def imitation_loss(self, *args, **kwargs):
        return super().imitation_loss(*args, **kwargs) * (1 + torch.rand(()))


# -------------------------------------------------------------------------------- what is decided


class Unclipped(Sound):
    def act(self, obs, instructions, keys):
        chunk = super().act(obs, instructions, keys)
        return replace(chunk, actions=chunk.raw[:, : self.units].reshape(chunk.actions.shape))


class ValueOfDoubles(Sound):
    def act(self, obs, instructions, keys):
        chunk = super().act(obs, instructions, keys)
        return replace(chunk, value=chunk.value.astype(np.float64))


class LogProbOfNaN(Sound):
    def act(self, obs, instructions, keys):
        chunk = super().act(obs, instructions, keys)
        return replace(chunk, logprob=np.full_like(chunk.logprob, np.nan))


class GlobalNoise(Sound):
    def act(self, obs, instructions, keys):
        drawn = None if keys is None else keys + np.array([np.random.randint(10**6), 0])
        return super().act(obs, instructions, drawn)


class NoiseByRow(Sound):
    def act(self, obs, instructions, keys):
        drawn = None if keys is None else keys * 0 + np.arange(len(keys))[:, None]
        return super().act(obs, instructions, drawn)


class NoiseByEpisode(Sound):
    def act(self, obs, instructions, keys):
        return super().act(obs, instructions, None if keys is None else keys * np.array([1, 0]))


class GreedyWithNoise(Sound):
    def act(self, obs, instructions, keys):
        made_up = np.arange(2 * len(instructions)).reshape(-1, 2)
        return super().act(obs, instructions, made_up if keys is None else keys)


class BatchStatistics(Sound):
    def encode_images(self, images, text):
        found = super().encode_images(images, text)
        return found - found.mean(0)


class EncodesTogether(Sound):
    def encode_text(self, sentences):
        found = super().encode_text(sentences)
        return found - found.mean(0)


class AcceptsAnySentence(Sound):
    def act(self, obs, instructions, keys):
        self.remember(instructions)
        return super().act(obs, instructions, keys)


# --------------------------------------------------------------------------------- how it is scored


class ScoresActions(Sound):
    def evaluate(self, obs, instructions, raw, features):
        return super().evaluate(obs, instructions, raw.clip(-0.1, 0.1), features)


class ScoresTheSum(Sound):
    def evaluate(self, obs, instructions, raw, features):
        scores = super().evaluate(obs, instructions, raw, features)
        return replace(scores, entropy=scores.entropy.sum(1))


class Unnormalised(Sound):
    def extra(self):
        return sum(parameter.sum() for parameter in self.head.parameters())

    def act(self, obs, instructions, keys):
        chunk = super().act(obs, instructions, keys)
        return replace(chunk, logprob=chunk.logprob + np.float32(self.extra().item()))

    def evaluate(self, obs, instructions, raw, features):
        scores = super().evaluate(obs, instructions, raw, features)
        return replace(scores, logprob=scores.logprob + self.extra())


class CachesSomethingElse(Sound):
    def from_cache(self, kept, text):
        return 1.5 * kept


class FeaturesOfDoubles(Sound):
    def features(self, obs, instructions):
        return super().features(obs, instructions).astype(np.float64)


# ----------------------------------------------------------------------------------- what is left


class CannotBePickled(Sound):
    def __init__(self, config, spaces):
        super().__init__(config, spaces)
        self.hook = lambda features: features


class ScaleOutsideOfItsState(Sound):
    scale = 1.0

    def fit_statistics(self, states):
        super().fit_statistics(states)
        self.scale = float(states.std())

    def encode_images(self, images, text):
        return super().encode_images(images, text) * self.scale


class WeightsInADetour(Sound):
    """Weights that are sent to it are ignored."""

    def load_state_dict(self, state, *args, **kwargs):
        return None
