"""A hub without a network, and a run that can be pushed to it."""

from __future__ import annotations

import fnmatch
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import huggingface_hub
import numpy as np
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalEntryNotFoundError

from vla_rl import cli
from vla_rl.policy import PolicyBase
from vla_rl.results.evaluation import EvalResult, TaskResult
from vla_rl.types import Observation

REPO = "ada/points"


class Hub:
    """What the client of the hub is asked for, answered from folders: one of each commit."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.private: dict[str, bool | None] = {}
        self.asked: list[list[str]] = []

    def commits(self, repo_id: str = REPO) -> list[Path]:
        return sorted((self.root / repo_id).glob("*"))

    def files(self) -> set[str]:
        return names(self.commits()[-1])

    def create_repo(self, repo_id, private, exist_ok):
        if repo_id.startswith("somebody/"):
            raise huggingface_hub.errors.HfHubHTTPError.__bases__[0]("403 Forbidden")
        self.private[repo_id] = private
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, repo_id, folder_path, allow_patterns, delete_patterns, **_):
        before = self.commits(repo_id)
        new = self.root / repo_id / f"{len(before):040x}"
        new.mkdir(parents=True)
        if before:
            copy(before[-1], new, lambda name: not matches(name, delete_patterns))
        copy(Path(folder_path), new, lambda name: matches(name, allow_patterns or "*"))
        return f"https://huggingface.co/{repo_id}/commit/{new.name}"

    def snapshot_download(self, repo_id, *, revision=None, allow_patterns, **_):
        self.asked.append(allow_patterns)
        commits = self.commits(repo_id)
        found = next((c for c in commits if c.name == revision), None)
        if not commits or (revision is not None and found is None):
            raise LocalEntryNotFoundError("Cannot find the requested files")
        commit = found or commits[-1]
        cached = self.root / "cache" / repo_id / commit.name
        copy(commit, cached, lambda name: matches(name, allow_patterns))
        return str(cached)


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def copy(source: Path, target: Path, wanted: Callable[[str], bool]) -> None:
    for name in filter(wanted, names(source)):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, target / name)


def act(policy: PolicyBase) -> np.ndarray:
    rng = np.random.default_rng(0)
    spaces = policy.spaces
    shape = (4, len(spaces.views), spaces.image_size, spaces.image_size, 3)
    obs = Observation(
        images=rng.integers(0, 255, shape, np.uint8),
        state=rng.normal(size=(4, spaces.state_dim)).astype(np.float32),
    )
    return policy.act(obs, [next(iter(policy.text_memory))] * 4, keys=None).actions


def evaluation(**tasks: TaskResult) -> EvalResult:
    return EvalResult("custom:point_reach:4x20steps", "point_reach", 20, {}, "none", tasks)


def four(*solved: bool) -> TaskResult:
    return TaskResult(seeds=(70, 71, 72, 73), success=solved, steps=(20, 9, 9, 9))


RED = four(False, True, True, True)
GREEN = four(False, False, False, False)


def push(*options) -> int:
    return cli.main(["push", *map(str, options)])


def card_of(played: Hub) -> ModelCard:
    card: ModelCard = ModelCard.load(played.commits()[-1] / "README.md")
    return card


def tamper(played: Hub, name: str, **changes) -> None:
    path = played.commits()[-1] / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
