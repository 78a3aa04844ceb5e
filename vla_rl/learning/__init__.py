"""What algorithms and supervised learning share: the learner, the update and its logging.

An algorithm that inherits the shared update imports from here::

    from vla_rl.learning import Credit, PolicyGradient
"""

from vla_rl.learning.group_relative import GroupRelative
from vla_rl.learning.learner import Learner, LearnerConfig
from vla_rl.learning.policy_gradient import Credit, PolicyGradient
from vla_rl.learning.update_state import UpdateState

__all__ = [
    "Credit",
    "GroupRelative",
    "Learner",
    "LearnerConfig",
    "PolicyGradient",
    "UpdateState",
]
