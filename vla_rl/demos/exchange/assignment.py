"""Assignment of tasks and starts to imported episodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vla_rl import plugins
from vla_rl.demos.exchange.source import Header, Source
from vla_rl.types import EpisodeSpec, Task, seed_for
from vla_rl.world import Arena, World


def tasks_by_episode(source: Source, arena: Arena, assign: Mapping[str, str]) -> dict[int, Task]:
    """Find the task of each episode, by its index; episodes of other tasks are left out.

    An episode that vla-rl recorded in this suite keeps its task. Any other gets the task that
    ``assign`` gives its instruction, or whose id or instruction has the same words, or the only one
    of the arena.

    Raises:
        ValueError: If an instruction matches no task, no episode belongs to any of the tasks, or
            one is longer than its task's horizon.
    """
    world, tasks = arena.world, {task.id: task for task in arena.tasks}
    foreign = {
        index: header.sentence
        for index, header in enumerate(source.headers)
        if header.spec is None or header.spec.task.suite != world.suite
    }
    by_sentence = _matched(source, Counter(foreign.values()), tasks, assign) if foreign else {}
    found: dict[int, Task] = {}
    for index, header in enumerate(source.headers):
        if index in foreign:
            task = by_sentence.get(foreign[index])
        else:
            task = _recorded(header, world, tasks)
        if task is None:
            continue
        if header.length > task.max_steps:
            raise ValueError(
                f"episode {index} of {source.name} has {header.length} steps, and the horizon of "
                f"{task.id} is {task.max_steps}; add --max-steps with at least "
                f"{max(h.length for h in source.headers)}"
            )
        found[index] = task
    if not found:
        raise ValueError(f"{source.name} has no episode of the tasks {_shortened(list(tasks))}")
    return found


def with_source_instruction(source: Source, arena: Arena, assign: Mapping[str, str]) -> Arena:
    """The arena with the source's instruction for its only task.

    Raises:
        ValueError: If the source has not exactly one instruction, the arena has several tasks, or
            an instruction was given.
    """
    sentences = {header.sentence for header in source.headers}
    said = sentences & set(assign) if assign else sentences
    sentence = next(iter(said)) if len(said) == 1 else None
    if sentence is None:
        raise ValueError(
            f"--keep-instruction: {source.name} has {len(said - {None})} instructions; exactly "
            "one is needed, which --assign can choose"
        )
    if arena.world.instruction is not None:
        raise ValueError("give --instruction or --keep-instruction, not both")
    if len(arena.tasks) > 1:
        raise ValueError("--keep-instruction: choose one task with --tasks")
    return arena.replaced(instruction=sentence)


def specs_by_episode(
    headers: Sequence[Header], tasks: Mapping[int, Task]
) -> dict[int, EpisodeSpec]:
    """Give each episode a start.

    Episodes that vla-rl did not record are only numbered: no seed reproduces their initial state.
    """
    count: Counter[str] = Counter()
    specs: dict[int, EpisodeSpec] = {}
    for index, task in tasks.items():
        known = headers[index].spec
        if known is not None and known.task.suite == task.suite:
            specs[index] = EpisodeSpec(task, known.seed)
        else:
            specs[index] = EpisodeSpec(task, seed_for("demo", count[task.id]))
            count[task.id] += 1
    return specs


def _recorded(header: Header, world: World, tasks: Mapping[str, Task]) -> Task | None:
    """The task of an episode that vla-rl recorded in this suite; None if it is not wanted."""
    assert header.spec is not None
    task, wanted = header.spec.task, tasks.get(header.spec.task.id)
    if wanted is None:
        return None
    return replace(
        task,
        instruction=task.instruction if world.instruction is None else wanted.instruction,
        max_steps=task.max_steps if world.max_steps is None else wanted.max_steps,
    )


def _matched(
    source: Source,
    sentences: Counter[str | None],
    tasks: Mapping[str, Task],
    assign: Mapping[str, str],
) -> dict[str | None, Task]:
    """The suite's task of each of the source's instructions; those without one are left out."""
    if assign:
        for sentence, name in assign.items():
            if sentence not in sentences:
                said = [str(known) for known in sentences]
                raise ValueError(plugins.unknown(f"instruction of {source.name}", sentence, said))
            if name not in tasks:
                raise ValueError(plugins.unknown("task", name, tasks))
        chosen: dict[str | None, Task] = {s: tasks[name] for s, name in assign.items()}
        return chosen
    if len(tasks) == len(sentences) == 1:
        return dict.fromkeys(sentences, *tasks.values())
    if set(sentences) == {None}:
        raise ValueError(
            f"{source.name} has no instructions; choose one task with --tasks: "
            f"{_shortened(list(tasks))}"
        )
    by_words = {_words(task.id): task for task in tasks.values()} | {
        _words(task.instruction): task for task in tasks.values()
    }
    matched: dict[str | None, Task] = {
        s: by_words[_words(s)] for s in sentences if s and _words(s) in by_words
    }
    if len(matched) < len(sentences):
        left = [repr(s) for s in sentences if s not in matched]
        raise ValueError(
            f"{source.name} has instructions that match no task: {_shortened(left)}. Assign each "
            f"to a task with --assign INSTRUCTION TASK ...; tasks: {_shortened(list(tasks))}"
        )
    return matched


def _words(sentence: str) -> str:
    return " ".join(sentence.casefold().rstrip(".! ").split())


def _shortened(names: Sequence[str]) -> str:
    return ", ".join([*names[:10], *(["..."] if len(names) > 10 else [])])
