"""The checks of ``vla-rl doctor``: whether this machine is ready, and if not, what to do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from vla_rl import plugins
from vla_rl.rollout.worker_pool import cores
from vla_rl.types import Check

MIN_MEMORY_GB = 4.0
MIN_DISK_GB = 1.0
MIN_SHARED_GB = 0.25
PACKAGES = ("torch", "timm", "transformers", "gymnasium", "mujoco", "metaworld", "minari", "numpy")


def examine_machine(folder: Path) -> list[Check]:
    """Run all checks, fast ones first; ``folder`` is where runs would be written."""
    checks = [_python(), _cores(), _memory(), _disk(folder), _shared_memory(), _device()]
    checks += [_package(name) for name in PACKAGES]
    for suite in plugins.names("envs"):
        checks += _suite(suite)
    return checks


def _python() -> Check:
    version = platform.python_version()
    ok = (3, 10) <= sys.version_info[:2] < (3, 14)
    return Check("python", ok, version, "" if ok else "use Python 3.10 to 3.13")


def _cores() -> Check:
    count = cores()
    load = os.getloadavg()[0]
    busy = load > 0.5 * count
    advice = (
        f"other programs keep {load:.1f} cores busy: runs will be slower and timings unreliable"
    )
    return Check("cpu cores", True, f"{count} usable of {os.cpu_count()}", advice if busy else "")


def _memory() -> Check:
    free = psutil.virtual_memory().available / 2**30
    advice = "" if free >= MIN_MEMORY_GB else f"{MIN_MEMORY_GB:.0f} GB are needed; close programs"
    return Check("memory", not advice, f"{free:.1f} GB free", advice)


def _disk(folder: Path) -> Check:
    existing = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())
    free = shutil.disk_usage(existing).free / 2**30
    advice = "" if free >= MIN_DISK_GB else f"{MIN_DISK_GB:.0f} GB are needed; choose another --out"
    return Check("disk", not advice, f"{free:.1f} GB free at {existing}", advice)


def _shared_memory() -> Check:
    free = shutil.disk_usage("/dev/shm").free / 2**30
    advice = "" if free >= MIN_SHARED_GB else "in a container, start it with --shm-size=1g"
    return Check("shared memory", not advice, f"{free:.1f} GB free in /dev/shm", advice)


def _device() -> Check:
    if torch.cuda.is_available():
        return Check("torch device", True, f"cuda: {torch.cuda.get_device_name()}")
    found = f"cpu ({torch.get_num_threads()} threads)"
    if Path("/proc/driver/nvidia").exists():
        advice = f"there is an NVIDIA driver, but torch {torch.__version__} cannot use it"
        return Check("torch device", False, found, f"{advice}: install a CUDA build of torch")
    return Check("torch device", True, found)


def _package(name: str) -> Check:
    """Compare the installed version with the one that vla-rl requires."""
    found = importlib.metadata.version(name)
    wanted = [r for r in importlib.metadata.requires("vla-rl") or [] if r.startswith(name)]
    pinned = [r.partition("==")[2] for r in wanted if "==" in r and "extra" not in r]
    ok = not pinned or pinned[0] == found
    return Check(name, ok, found, "" if ok else f"run: uv pip install {name}=={pinned[0]}")


def _suite(name: str) -> list[Check]:
    module = plugins.load("envs", name)
    diagnose: Callable[[], list[Check]] = vars(module).get("diagnose", list)
    return diagnose()
