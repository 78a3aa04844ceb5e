"""What is left of a policy that was copied, sent to another process, or saved and loaded.

Each check takes a policy that remembers sentences and returns what it found; it raises
:class:`Broken` where the contract is broken. ``vla_rl/contract/policy.py`` lists and runs them.
"""

from __future__ import annotations

import copy
import pickle
import tempfile
from pathlib import Path

import torch

from vla_rl.contract.finding import Broken, Finding
from vla_rl.contract.seen import Seen, act, difference
from vla_rl.policy import PolicyBase, load_policy


def copies(policy: PolicyBase) -> Finding:
    """A copy, a pickled one, and one that is sent all weights decide the same, to the last bit."""
    policy.use_density(policy.densities[-1])
    blank = pickle.loads(pickle.dumps(policy))
    with torch.no_grad():
        for parameter in blank.parameters():
            parameter.zero_()
    blank.load_state_dict(policy.state_dict())
    for how, other in (
        ("a copy", copy.deepcopy(policy)),
        ("a pickled copy", pickle.loads(pickle.dumps(policy))),
        ("a copy that is sent the weights", blank),
    ):
        _check_alike(policy, other, how)
    return Finding("in this process and in workers")


def saving(policy: PolicyBase) -> Finding:
    """A saved policy decides the same when it is loaded, to the last bit."""
    with tempfile.TemporaryDirectory() as folder:
        policy.save_pretrained(Path(folder))
        loaded = load_policy(folder, policy.spaces)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    if loaded.config != policy.config:
        raise Broken(
            f"{policy.config} comes back as {loaded.config}",
            "use plain field types in Config, and set config_class",
        )
    _check_alike(policy, loaded, "a loaded policy")
    return Finding(f"{size / 2**20:.2g} MiB")


def _check_alike(policy: PolicyBase, other: PolicyBase, how: str) -> None:
    seen = Seen.by(policy)
    for greedy in (True, False):
        found = difference(act(policy, seen, greedy), act(other, seen, greedy))
        if found:
            raise Broken(
                f"{found} in {how}",
                "keep all that acting needs in parameters, buffers, Config and text_memory",
            )
