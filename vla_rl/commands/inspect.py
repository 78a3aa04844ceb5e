"""``vla-rl inspect``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vla_rl.demos.demo_set import DemoSet
from vla_rl.results.evaluation import EvalResult
from vla_rl.results.run_folders import RECORD
from vla_rl.stages.tables import show_demos, show_evaluation, show_kept_policies
from vla_rl.storage import hub


@dataclass(frozen=True)
class Command:
    """Show the content of a set of demonstrations, an evaluation, a run or a saved policy."""

    path: Annotated[Path, tyro.conf.Positional]
    """Folder of demonstrations, of a run or of a policy, an evaluation (JSON), or the name of a
    policy on the Hugging Face hub (`user/name`, `user/name@revision`)."""

    def run(self) -> int:
        """Print the content."""
        path = hub.find(self.path)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        if path.is_file():
            show_evaluation(EvalResult.from_json(path.read_text()))
        elif (path / "config.json").exists():
            print(json.dumps(json.loads((path / "config.json").read_text()), indent=2))
            for run in (path, *sorted(path.glob("*/rl"))):  # iRe-VLA has one for each task
                show_kept_policies(run)
            if (path / RECORD).exists():  # the best policy of a run
                show_evaluation(EvalResult.from_json((path / RECORD).read_text()))
        else:
            show_demos(DemoSet.open(path))
        return 0
