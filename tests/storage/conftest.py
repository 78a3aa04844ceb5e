"""The hub that the tests of storage talk to, and a run to push."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

from tests.helpers import WORLD, make_policy
from tests.storage.helpers import GREEN, RED, Hub, evaluation
from vla_rl.stages.run import save_policy


@pytest.fixture
def played(tmp_path, monkeypatch) -> Hub:
    """A hub without a network."""
    made = Hub(tmp_path / "hub")
    api = huggingface_hub.HfApi
    monkeypatch.setattr(api, "create_repo", lambda self, **asked: made.create_repo(**asked))
    monkeypatch.setattr(api, "upload_folder", lambda self, **asked: made.upload_folder(**asked))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    monkeypatch.chdir(tmp_path)  # `ada/points` must be no folder here
    return made


@pytest.fixture
def run(tmp_path) -> Path:
    """A finished run of `vla-rl train` with an evaluation of what it wrote."""
    folder: Path = tmp_path / "run"
    folder.mkdir()
    policy = make_policy()
    policy.fit_statistics(np.random.default_rng(1).normal(size=(9, 2)).astype(np.float32))
    save_policy(policy, WORLD.resolve(), folder / "policy")
    config = {
        "command": "train",
        "algorithm": "loop",
        "algo": {"group_size": 8},
        "anchor": {"coef": 0.0},
        "demos": "/home/ada/secret/demos",
        "out": "/home/ada/secret/run",
        "seed": 3,
    }
    (folder / "config.json").write_text(json.dumps(config))
    rows = [{"step": 1, "train/env_steps": 640}, {"step": 2, "train/env_steps": 1280}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "eval_custom.json").write_text(evaluation(red=RED, green=GREEN).to_json())
    return folder
