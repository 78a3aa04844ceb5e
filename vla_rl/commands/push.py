"""``vla-rl push``."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from vla_rl.policy import load_policy
from vla_rl.results.evaluation import EvalResult
from vla_rl.results.metrics import FILE, read_metrics
from vla_rl.results.run_folders import BEST, RECORD
from vla_rl.storage import hub
from vla_rl.storage.files import standing
from vla_rl.storage.model_card import Training

_RUNS = ("sft", "train", "demo")  # commands that write a policy


@dataclass(frozen=True)
class Command:
    """Upload a policy to the Hugging Face hub, with a model card that reports its evaluation."""

    policy: Annotated[Path, tyro.conf.Positional]
    """Folder of a saved policy, or a run folder, whose last policy is used (RUN/policy)."""
    repo: str
    """Repository `user/name`, which is created if it does not exist."""
    private: bool = False
    """Make a new repository private; by default the account's settings decide."""
    license: str | None = None
    """Licence of the weights for the model card, for instance `apache-2.0`."""
    evaluations: tuple[Path, ...] = ()
    """Evaluations of this policy (files written by `vla-rl eval`) for the model card. By default
    the eval_*.json next to the policy that are newer than its weights; those of RUN/best end in
    _best."""
    dry_run: bool = False
    """Only write the folder that would be uploaded to OUT, and upload nothing."""
    out: Path = Path("runs/hub")
    """Folder that a dry run writes."""

    def run(self) -> int:
        """Write the folder, show its content, and upload it."""
        hub.check_id(self.repo)
        if self.dry_run and self.out.exists():
            raise FileExistsError(f"{self.out} already exists; delete it, or choose another --out")
        folder = _policy_folder(self.policy)
        evaluations = _read(self.evaluations or _evaluations(folder))
        with tempfile.TemporaryDirectory() as scratch:
            staged = self.out if self.dry_run else Path(scratch)
            self._stage(folder, staged, evaluations)
            _show(staged, self.repo, evaluations)
            _say_what_is_missing(_json(folder / "config.json")["class"])
            if self.dry_run:
                print(f"dry run: written to {self.out}, nothing was uploaded")
            else:
                print(hub.upload(staged, self.repo, private=self.private or None))
        return 0

    def _stage(self, folder: Path, staged: Path, evaluations: Sequence[EvalResult]) -> None:
        """Copy the policy's files and write its card, after making sure that it can be read."""
        world = folder / hub.WORLD
        card = load_policy(folder).generate_model_card(
            repo_id=self.repo,
            world=_json(world) if world.is_file() else None,
            training=_training(folder),
            evaluations=evaluations,
            license=self.license,
        )
        staged.mkdir(parents=True, exist_ok=True)
        for pattern in hub.FILES:
            for path in folder.glob(pattern):
                copy = staged / path.relative_to(folder)
                copy.parent.mkdir(exist_ok=True)
                shutil.copy2(path, copy)
        card.save(staged / hub.CARD)


def _policy_folder(path: Path) -> Path:
    """The folder itself if it holds a policy, otherwise its ``policy``.

    Raises:
        ValueError: If neither holds one.
    """
    for folder in (standing(path), standing(path / "policy")):
        description = folder / "config.json"
        if description.is_file() and "class" in _json(description):
            return folder
    raise ValueError(
        f"{path} holds no saved policy; name the folder of a finished run of `vla-rl sft`, "
        "`vla-rl train` or `vla-rl demo`, or of a policy (a config.json with its class)"
    )


def _evaluations(folder: Path) -> list[Path]:
    """Evaluations next to a policy that are certainly its own; prints which are left out."""
    is_best = folder.name == BEST
    # A demo's evaluation before training is that of its clone, in sft/policy.
    found = [
        path
        for path in sorted(folder.parent.glob("eval_*.json"))
        if not path.stem.startswith("eval_before") and path.stem.endswith(f"_{BEST}") == is_best
    ]
    other = "policy" if is_best else BEST  # of the same run; its evaluations have other names
    beside = [
        path.parent
        for path in folder.parent.glob("*/config.json")
        if path.parent.name != other and "class" in _json(path)
    ]
    if found and len(beside) > 1:
        print(
            f"evaluations in {folder.parent} are left out, as {len(beside)} policies are there; "
            "name this one's with --evaluations"
        )
        return []
    written = max(path.stat().st_mtime_ns for path in folder.glob("model*.safetensors"))
    stale = [path for path in found if path.stat().st_mtime_ns < written]
    for path in stale:
        print(f"{path} is left out: it is older than the policy's weights; evaluate again")
    return [path for path in found if path not in stale]


def _read(paths: Sequence[Path]) -> list[EvalResult]:
    """Load evaluations at every reported horizon, the newest of each protocol."""
    newest: dict[str, EvalResult] = {}
    for path in paths:
        if not path.is_file():
            raise ValueError(f"there is no evaluation {path}")
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns):
        try:
            result = EvalResult.from_json(path.read_text())
        except ValueError as error:
            raise ValueError(
                f"{path}: {error}; evaluate again, or name others with --evaluations"
            ) from error
        newest |= {found.protocol_id: found for found in result.each_horizon()}
    return list(newest.values())


def _training(folder: Path) -> Training | None:
    """Training settings of the run that wrote this policy, if there is one."""
    path = folder.parent / "config.json"
    if folder.name not in ("policy", BEST) or not path.is_file():
        return None
    settings = _json(path)
    if settings.get("command") not in _RUNS:
        return None
    metrics = folder.parent / FILE
    rows = read_metrics(metrics) if metrics.is_file() else []
    if (folder / RECORD).is_file():
        rows = [row for row in rows if row["step"] <= _json(folder / RECORD)["iteration"]]
    steps = [row["train/env_steps"] for row in rows if row.get("train/env_steps") is not None]
    return Training(settings, int(steps[-1]) if steps else None)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged or incomplete: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return found


def _say_what_is_missing(policy: str) -> None:
    """Whoever reads a policy of a class outside of vla_rl needs its code, which is not uploaded."""
    module = policy.rpartition(".")[0]
    if not module.startswith("vla_rl."):
        print(
            f"the code of the class {policy} is not included: whoever uses this policy has to "
            f"install the package that holds {module}, and to import it first (the card says so)"
        )


def _show(staged: Path, repo: str, evaluations: Sequence[EvalResult]) -> None:
    print(f"for {repo} on the Hugging Face hub:")
    table = Table()
    table.add_column("file")
    table.add_column("bytes", justify="right")
    for path in sorted(path for path in staged.rglob("*") if path.is_file()):
        table.add_row(path.relative_to(staged).as_posix(), f"{path.stat().st_size:,}")
    Console().print(table)
    for result in evaluations:
        value, low, high = result.mean
        what = "mean completed share" if result.has_sequences else "mean success"
        print(f"card: {what} {value:.1%} [{low:.1%}, {high:.1%}] under {result.protocol_id}")
    if not evaluations:
        print("card: no evaluation; `vla-rl eval --policy FOLDER` measures the policy")
