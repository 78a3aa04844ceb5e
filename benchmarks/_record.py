"""The origin of a result: date, commit, machine."""

from __future__ import annotations

import json
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil
import torch

from vla_rl.rollout.worker_pool import cores

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Processor, cores, memory and versions."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def git_hash() -> str:
    """The commit that was measured, marked if the tree had other changes."""
    root = Path(__file__).parent
    run = lambda *words: subprocess.run(  # noqa: E731
        ["git", *words], cwd=root, capture_output=True, text=True, check=True
    ).stdout.strip()
    changed = run("status", "--porcelain", "--untracked-files=no")
    return run("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")


def write(claim: str, result: dict[str, Any]) -> Path:
    """Write ``results/<claim>.json`` with git hash, date and machine."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{claim}.json"
    stamp = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    whole = {"claim": claim, "git": git_hash(), "date": stamp, "machine": machine(), **result}
    path.write_text(json.dumps(whole, indent=2) + "\n")
    return path


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
