"""The report of a finished run: a video, a learning curve and a one-page summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_rl.policy import PolicyBase
from vla_rl.results.evaluation import EvalResult, TaskResult
from vla_rl.results.metrics import read_metrics
from vla_rl.results.page import PageContent, summary_page
from vla_rl.results.plots import learning_curve
from vla_rl.results.run_folders import BEST, kept_policies
from vla_rl.results.video import Clip, before_after_video
from vla_rl.rollout.collector import Collector
from vla_rl.rollout.play import PlaySettings
from vla_rl.stages.run import RunFolder
from vla_rl.types import EpisodeSpec
from vla_rl.world import Arena

MOST_FILMED = 6
EVERY_FRAME = 2  # Meta-World steps 80 times a second; at 20 frames a second this is half speed


def film(
    run_: RunFolder,
    collector: Collector,
    arena: Arena,
    policies: tuple[PolicyBase, PolicyBase],
    before: EvalResult,
    after: EvalResult,
) -> Path | None:
    """Make a video of the policies before and after, one row each, on one start of every task.

    The start is the first one that was solved after but not before training, within the horizon of
    training, if there is one. Episodes are played within that horizon and then replayed with the
    suite's settings for videos. For a suite without such settings no video is made.
    """
    filmed = arena.offered("filmed", None)
    if filmed is None:
        return None
    was, now = within_training(before, arena), within_training(after, arena)
    specs = [
        EpisodeSpec(task, _telling_start(was.tasks[task.id], now.tasks[task.id]))
        for task in arena.tasks[:MOST_FILMED]
    ]
    rows = [_filmed(collector, policy, specs, filmed(arena.settings)) for policy in policies]
    path = run_.folder / "before_after.mp4"
    before_after_video(rows[0], rows[1], [spec.task.id for spec in specs], path)
    return path


def _telling_start(before: TaskResult, after: TaskResult) -> int:
    """Index of the first start that was solved after but not before, otherwise 0."""
    later = after.by_seed()
    gained = (seed for seed, solved in before.by_seed().items() if later[seed] and not solved)
    return next(gained, before.seeds[0])


def _filmed(
    collector: Collector, policy: PolicyBase, specs: Sequence[EpisodeSpec], settings: Any
) -> list[Clip]:
    rollout = collector.collect(policy, specs, [0] * len(specs), PlaySettings(greedy=True))
    episodes = [(t.spec, t.chunk.actions[t.executed]) for t in rollout.trajectories]
    clips = collector.film(settings, episodes)
    return [
        Clip(frames[::EVERY_FRAME], t.success)
        for frames, t in zip(clips, rollout.trajectories, strict=True)
    ]


def within_training(result: EvalResult, arena: Arena) -> EvalResult:
    """The result within the horizon of training, if the evaluation was longer and it is known."""
    own = arena.horizons
    return result.within(own) if own in result.also_within else result


def write_report(
    run_: RunFolder,
    arena: Arena,
    facts: Mapping[str, str],
    before: EvalResult,
    after: EvalResult,
    video: Path | None,
) -> Path:
    """Write the learning curve (within the horizon of training) and the page; return its path."""
    rows = read_metrics(run_.folder / "metrics.jsonl")
    curve = run_.folder / "learning_curve.png"
    learning_curve(rows, within_training(before, arena), within_training(after, arena), curve)
    parts = ("physics", "render", "transfer", "policy", "update")
    seconds = {p: sum(float(row.get(f"time/{p}") or 0.0) for row in rows) for p in parts}
    folder = run_.folder
    policies = kept_policies(folder)
    evaluate_best = {}
    if policies:
        seconds["validation"] = sum(float(row.get("time/validation") or 0.0) for row in rows)
        evaluate_best = {
            "evaluate the policy that was best on validation starts": (
                f"vla-rl eval --policy {folder}/{BEST}"
            )
        }
    summary = PageContent(
        title=f"vla-rl: {folder.name}",
        facts=facts,
        before=before,
        after=after,
        seconds=seconds,
        files=FILES | {f"{name}/": words for name, words in policies.items()},
        commands={
            **_protocols(arena, folder),
            **evaluate_best,
            "continue training": f"vla-rl train --policy {folder}/policy --out {folder}-more",
            "watch the curves": f"tensorboard --logdir {folder}",
        },
    )
    page = folder / "summary.html"
    summary_page(summary, page, curve, video)
    return page


FILES = {
    "config.json": "every setting of the run",
    "metrics.jsonl": "one line per update (also for TensorBoard)",
    "demos/": "the demonstrations, a Minari dataset",
    "sft/policy/": "the clone",
    "policy/": "the improved policy: safetensors and JSON",
    "checkpoints/": "checkpoints for --resume",
    "eval_before.json, eval_after.json": "success and length of every evaluated episode",
    "learning_curve.png, before_after.mp4": "learning curve and video",
}


def _protocols(arena: Arena, folder: Path) -> dict[str, str]:
    """Commands that evaluate with the suite's protocols that fit any of its policies."""
    return {
        f"evaluate with {protocol.name}": (
            f"vla-rl eval --policy {folder}/policy --eval.protocol {protocol.name}"
        )
        for protocol in arena.protocols.values()
        if not protocol.settings
    }
