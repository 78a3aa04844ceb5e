"""``vla-rl COMMAND [options]``: finds the command, parses its typed options, reports errors.

A command is a module in ``vla_rl/commands`` with a dataclass ``Command``. It is imported only when
it is used, so that ``vla-rl --help`` is fast.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from vla_rl import __version__, plugins

COMMANDS = {
    "demo": "the main job: record, clone, evaluate, improve by RL, evaluate again (5 minutes)",
    "record": "record demonstrations with a suite's scripted experts",
    "expert": "train experts on the simulator's true state and record their demonstrations",
    "sft": "clone a policy from demonstrations",
    "train": "improve a policy by reinforcement learning",
    "ire-vla": "improve a policy task by task: RL of its head, then imitation with all of it",
    "eval": "evaluate a policy on starts it was never trained on",
    "compare": "compare two evaluations, or the learning curves of runs",
    "inspect": "show what is in a set of demonstrations, a policy or a run",
    "push": "upload a policy to the Hugging Face hub, with a card that holds its evaluation",
    "export": "export demonstrations as a LeRobotDataset v3 or a Minari dataset",
    "import": "import a LeRobotDataset v3 or a Minari dataset as demonstrations",
    "list": "show suites, tasks, policies, algorithms, rewards, curricula, protocols",
    "check": "check a suite, policy or algorithm of yours against its contract: what to fix",
    "doctor": "check this machine and say what to fix",
}
INTERRUPTED = 130  # the exit status that a shell gives a program ended by Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (0 done, 1 failed, 2 bad input, 130 Ctrl-C)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0
    if words[0] not in COMMANDS:
        print(f"vla-rl: {plugins.unknown('command', words[0], COMMANDS)}", file=sys.stderr)
        return 2
    # Idle torch threads must sleep, or they take CPU time from the workers.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.path.insert(0, "")  # a user's own plug-ins are found from where the command is run
    return _guarded(lambda: _run(words[0], words[1:]))


def _run(name: str, options: list[str]) -> int:
    from vla_rl.commands._parsing import parse

    command = importlib.import_module(f"vla_rl.commands.{name.replace('-', '_')}").Command
    status: int = parse(command, options, f"vla-rl {name}").run()
    return status


def _guarded(action: Callable[[], int]) -> int:
    """Report errors that a user can fix in one sentence; any other keeps its traceback."""
    try:
        return action()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        if os.environ.get("VLA_RL_TRACEBACK"):
            raise
        return 2
    except (OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        if os.environ.get("VLA_RL_TRACEBACK"):
            raise
        return 1


def _overview() -> str:
    lines = [f"  {name:<8} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: vla-rl COMMAND [options]",
            "",
            "Improve vision-language-action robot policies with reinforcement learning.",
            "",
            *lines,
            "",
            "`vla-rl COMMAND --help` shows the options of a command, and how to see all of them.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
