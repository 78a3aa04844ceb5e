"""The model card of a saved policy: how to load it, and how it was trained and evaluated.

Every number comes from files of the run: the policy's ``config.json`` and ``world.json``, the run's
settings, its metrics and its evaluations. The card says what is unknown. Success rates are in the
text and, for the index of the hub, in the card's ``model-index``. Nothing here imports torch.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import ModelCard, ModelCardData

from vla_rl import __version__
from vla_rl.results.evaluation import EvalResult, TaskResult
from vla_rl.results.intervals import Estimate, estimate
from vla_rl.types import SEED_RANGES

LIBRARY = "vla-rl"
TAGS = (LIBRARY, "robotics", "reinforcement-learning")
PIPELINE = "robotics"

# Settings of a run's config.json for the card; the others are paths, or describe the world.
_TRAINING = (
    *("command", "demos", "sft", "algorithm", "algo", "anchor", "curriculum", "rewards"),
    *("learner", "train", "seed", "history"),
)
_DIGITS = 4  # more would need over 100,000 episodes
_NOT_IN_TYPES = re.compile(
    r"[^\w.-]+", re.ASCII
)  # the hub does not allow these characters in a dataset type


@dataclass(frozen=True)
class Training:
    """How a policy was trained.

    Attributes:
        settings: The run's ``config.json``.
        env_steps: Environment steps of reinforcement learning, if there was any.
    """

    settings: Mapping[str, Any]
    env_steps: int | None = None


def render(
    description: Mapping[str, Any],
    repo_id: str | None = None,
    world: Mapping[str, Any] | None = None,
    training: Training | None = None,
    evaluations: Sequence[EvalResult] = (),
    license: str | None = None,
) -> ModelCard:
    """Render the card of a policy.

    Args:
        description: Its ``config.json`` (``class``, ``config``, ``spaces``, ``sentences``).
        repo_id: Its repository on the hub; ``None`` for a local folder.
        world: Its ``world.json``, if there is one.
        training: How it was trained, if known.
        evaluations: Evaluations on held-out starts; the card says so if there is none.
        license: Licence of the weights, a name that the hub knows, for instance ``apache-2.0``.
    """
    name = repo_id.partition("/")[2] if repo_id else "policy"
    suites = [world["suite"]] if world else [result.suite for result in evaluations]
    data = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag=PIPELINE,
        tags=[*TAGS, *dict.fromkeys(map(_plain, suites))],
        license=license,
        model_name=name if evaluations else None,
        eval_results=[r for result in evaluations for r in _indexed(result)] or None,
    )
    module = description["class"].rpartition(".")[0]
    card: ModelCard = ModelCard.from_template(
        data,
        template_str=_TEMPLATE,
        name=name,
        source=repo_id or "FOLDER",
        own=None if module.startswith("vla_rl.") else module,
        world=world,
        env=_named_suite(world),
        sentences=description["sentences"],
        sees=_table(("what", "value"), _flat(description["spaces"])),
        network=description["class"],
        net=_table(("setting", "value"), _flat(description["config"])),
        trained=None if training is None else _trained(training),
        evaluations=[_told(result) for result in evaluations],
        version=version(),
    )
    return card


@functools.cache
def version() -> str:
    """Version of vla-rl, with the commit if it was installed from git or is a checkout."""
    for distribution in importlib.metadata.distributions(name=LIBRARY):
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        if commit := origin.get("vcs_info", {}).get("commit_id"):
            return f"{__version__} (commit {commit[:12]})"
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists() or not shutil.which("git"):
        return __version__
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{__version__} (commit {head}{', with changes' if changed else ''})"


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


# ------------------------------------------------------------------------------------ evaluations


def _indexed(result: EvalResult) -> Iterator[huggingface_hub.EvalResult]:
    """Success of every task and on average, as entries of the ``model-index``."""
    for name, task in result.tasks.items():
        starts = {"episodes": task.episodes, "seeds": _starts(task.seeds)}
        if task.subgoals:
            yield _entry(result, name, "completed_share", task.share, starts)
        yield _entry(result, name, "success_rate", task.rate, starts)
    if len(result.tasks) > 1:
        episodes = sum(task.episodes for task in result.tasks.values())
        where = f"mean over {len(result.tasks)} tasks"
        kind = "completed_share" if result.has_sequences else "success_rate"
        yield _entry(result, where, kind, result.mean, {"episodes": episodes})


def _entry(
    result: EvalResult, where: str, kind: str, value: Estimate, starts: Mapping[str, Any]
) -> huggingface_hub.EvalResult:
    rate, low, high = (round(number, _DIGITS) for number in value)
    return huggingface_hub.EvalResult(
        task_type=PIPELINE,
        task_name=where,
        dataset_type=_plain(result.suite),
        dataset_name=f"{result.suite}: {where}",
        dataset_config=where,
        metric_type=kind,
        metric_name=kind.replace("_", " "),
        metric_value=rate,
        metric_args={
            "confidence_interval_95": [low, high],
            **starts,
            "protocol": result.protocol_id,
            "card_written_by": f"{LIBRARY} {version()}",
        },
    )


def _told(result: EvalResult) -> Mapping[str, Any]:
    """The evaluation for the text of the card, with every measure of a sequence."""
    rows = [
        (f"{name}: {measure}" if task.subgoals else name, *_shown(estimate(outcomes)), *_of(task))
        for name, task in result.tasks.items()
        for measure, outcomes in task.measures().items()
    ]
    if len(result.tasks) > 1:
        what = "completed share" if result.has_sequences else "success"
        rows.append((f"mean {what} over {len(result.tasks)} tasks", *_shown(result.mean), "", ""))
    return {
        "table": _table(("task", "success", "95 % interval", "episodes", "seeds of starts"), rows),
        "suite": result.suite,
        "protocol": result.protocol_id,
        "horizon": result.horizon,
        "renderer": "" if result.renderer == "none" else result.renderer,
        "chosen_by": any(
            seed in SEED_RANGES["validation"]
            for task in result.tasks.values()
            for seed in task.seeds
        ),
    }


def _shown(value: Estimate) -> tuple[str, str]:
    return f"{value.value:.1%}", f"{value.low:.1%} to {value.high:.1%}"


def _of(task: TaskResult) -> tuple[str, str]:
    return str(task.episodes), _starts(task.seeds)


def _starts(seeds: Sequence[int]) -> str:
    """``"7 to 9"`` for consecutive seeds, otherwise all seeds."""
    ordered = sorted(seeds)
    if len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{ordered[0]} to {ordered[-1]}"
    return ", ".join(map(str, ordered))


# ---------------------------------------------------------------------------------------- the text


def _trained(training: Training) -> str:
    settings = training.settings
    known = {name: settings[name] for name in _TRAINING if settings.get(name) is not None}
    if isinstance(known.get("demos"), str):  # a local path
        del known["demos"]
    if known.get("anchor", {}).get("coef") == 0:
        del known["anchor"]
    rows = list(_flat(known))
    if training.env_steps is not None:
        rows.append(("environment steps of reinforcement learning", f"{training.env_steps:,}"))
    return _table(("setting", "value"), rows)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            yield f"{prefix}{name}", shown


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _plain(suite: str) -> str:
    return _NOT_IN_TYPES.sub("-", suite)


def _named_suite(world: Mapping[str, Any] | None) -> str:
    """The option with which a user trusts a suite that a repository alone may not import."""
    suite = "" if world is None else world["suite"]
    return f" --env {suite}" if re.search("[:.]", suite) else ""


_TEMPLATE = """---
{{ card_data }}
---

# {{ name }}

A robot policy for simulated tasks, saved by `vla-rl` as JSON and safetensors. It maps observations
and an instruction to chunks of actions.

## How to load it

```python
{% if own %}import {{ own }}  # the policy's class, which a repository may not import
{% endif %}from vla_rl.policy import load_policy

policy = load_policy("{{ source }}")
print(policy.spaces, list(policy.text_memory))  # shapes; instructions that it knows
```
{% if world %}
```bash
vla-rl eval --policy {{ source }}{{ env }}
vla-rl train --policy {{ source }}{{ env }} --out runs/more
```
{% endif %}
## Evaluation
{% for e in evaluations %}
{{ e.table }}

Suite `{{ e.suite }}`, episodes of at most {{ e.horizon }} environment steps, protocol
`{{ e.protocol }}`.
Each start was played once, without exploration noise; none was used for training.
{%- if e.chosen_by %} These are validation starts, with which settings or this policy may have been
chosen: success on other starts may be lower.{% endif %}
{%- if e.renderer %} Images were rendered by {{ e.renderer }}.{% endif %}
{% else %}
There is no evaluation of this policy: its success rate is not known.
{% endfor %}
{%- if evaluations %}
Intervals of single tasks are Wilson's; that of the mean combines them. They cover other starts for
this policy, not other training runs.
{% endif %}
## Tasks
{% if world %}
Suite `{{ world.suite }}`, tasks {{ world.tasks | join(", ") }}
{%- if world.max_steps %}, at most {{ world.max_steps | join(", ") }} steps{% endif %}.
{% endif %}
{%- if sentences %}
Instructions that it knows:
{% for sentence in sentences %}
- {{ sentence }}
{%- endfor %}
{% endif %}
{{ sees }}

## Network

`{{ network }}`

{{ net }}

## Training

{{ trained or "How it was trained was not recorded beside it." }}

---
Card written by `vla-rl` {{ version }}.
"""
