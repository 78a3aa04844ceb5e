"""The mathematics of the algorithms as pure functions of tensors.

No state and no imports from this package, so every function can be checked by hand. Axes as in
:mod:`vla_rl.types`. Losses work on *rows*: one row is one decision, ``[R, U]`` its units, and
``episode`` ``[R]`` says which rows belong together.
"""

from vla_rl.functional.aggregation import AGGREGATIONS, Aggregation, unit_weights
from vla_rl.functional.divergence import KLEstimator, divergence, importance_weight
from vla_rl.functional.group_baselines import (
    EQUAL,
    RewardScale,
    group_relative,
    has_contrast,
    leave_one_out,
    length_weighted_baseline,
    whiten,
)
from vla_rl.functional.ratio import (
    EPISODE_LEVELS,
    RATIO_LEVELS,
    RatioLevel,
    at_level,
    log_ratio,
)
from vla_rl.functional.retention import (
    adaptive_size,
    keep_best,
    keep_fast_successes,
    keep_stratified,
)
from vla_rl.functional.returns import (
    clipped_value_loss,
    generalised_advantage,
    process_supervision,
    returns_to_go,
    whiten_advantages,
)
from vla_rl.functional.surrogate import LOSS_TYPES, LossType, surrogate_loss
from vla_rl.functional.units import Surrogate

__all__ = [
    "AGGREGATIONS",
    "EPISODE_LEVELS",
    "EQUAL",
    "LOSS_TYPES",
    "RATIO_LEVELS",
    "Aggregation",
    "KLEstimator",
    "LossType",
    "RatioLevel",
    "RewardScale",
    "Surrogate",
    "adaptive_size",
    "at_level",
    "clipped_value_loss",
    "divergence",
    "generalised_advantage",
    "group_relative",
    "has_contrast",
    "importance_weight",
    "keep_best",
    "keep_fast_successes",
    "keep_stratified",
    "leave_one_out",
    "length_weighted_baseline",
    "log_ratio",
    "process_supervision",
    "returns_to_go",
    "surrogate_loss",
    "unit_weights",
    "whiten",
    "whiten_advantages",
]
