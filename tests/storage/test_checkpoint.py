from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vla_rl.storage import checkpoint
from vla_rl.storage.files import free_space_check, write_json
from vla_rl.storage.state import capture_rng, restore_rng

torch.set_num_threads(1)


def write_policy(folder: Path) -> None:
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"w" * 1000)


def steps(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def same(left: Any, right: Any) -> bool:
    """Equal in type and bits, through nested containers."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


# ---------------------------------------------------------------------------------- save and load


def test_save_and_load(tmp_path: Path) -> None:
    state = {"iteration": 3, "optimizer": {"exp_avg": torch.arange(3.0)}, "nothing": {}}
    saved = checkpoint.save(tmp_path, 10, write_policy, state)
    assert saved == tmp_path / "step_000010"
    assert sorted(p.relative_to(saved).as_posix() for p in saved.rglob("*") if p.is_file()) == [
        "manifest.json",
        "policy/weights.bin",
        "state.json",
        "tensors.safetensors",
    ]
    found = checkpoint.load(tmp_path)
    assert (found.path, found.step, found.policy) == (saved, 10, saved / "policy")
    assert same(found.state(), state)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (0, 5, 10, 1_000_000):
        checkpoint.save(tmp_path, step, write_policy, {}, keep=2)
    assert steps(tmp_path) == ["step_000010", "step_1000000"]
    assert checkpoint.load(tmp_path).step == 1_000_000


def test_going_back_drops_the_abandoned_future(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, step, write_policy, {"of": step}, keep=3)
    checkpoint.save(tmp_path, 15, write_policy, {"of": 15}, keep=3)
    assert steps(tmp_path) == ["step_000010", "step_000015"]


def test_the_same_step_is_replaced(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, write_policy, {"of": "first"})
    checkpoint.save(tmp_path, 1, write_policy, {"of": "second"})
    assert steps(tmp_path) == ["step_000001"]
    assert checkpoint.load(tmp_path).state() == {"of": "second"}


def test_a_kill_while_the_same_step_is_replaced_leaves_the_older_one(tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path, 1, write_policy, {"of": "first"})
    saved.rename(tmp_path / "step_000001.old")
    assert checkpoint.load(tmp_path).state() == {"of": "first"}
    checkpoint.save(tmp_path, 2, write_policy, {"of": "second"})
    assert steps(tmp_path) == ["step_000002"]


def test_stale_temporary_folders_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".saving-abc" / "policy").mkdir(parents=True)
    checkpoint.save(tmp_path, 1, write_policy, {})
    assert steps(tmp_path) == ["step_000001"]


def test_nonsense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        checkpoint.save(tmp_path, 1, write_policy, {}, keep=0)
    with pytest.raises(ValueError, match="step must not be negative, got -1"):
        checkpoint.save(tmp_path, -1, write_policy, {})
    with pytest.raises(ValueError, match="state.a.1 is a set"):
        checkpoint.save(tmp_path, 1, write_policy, {"a": [1, {2}]})
    assert steps(tmp_path) == []


# ------------------------------------------------------------------------------------- damage


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "how", "message"),
    [
        ("tensors.safetensors", truncate, r"tensors.safetensors has \d+ bytes instead of"),
        ("tensors.safetensors", flip, "content of tensors.safetensors has changed"),
        ("tensors.safetensors", Path.unlink, "tensors.safetensors is missing"),
        ("state.json", flip, "content of state.json has changed"),
        ("policy/weights.bin", flip, "content of weights.bin has changed"),
        ("policy/weights.bin", Path.unlink, "weights.bin is missing"),
        ("manifest.json", truncate, "manifest.json cannot be read"),
        ("manifest.json", Path.unlink, "manifest.json cannot be read"),
    ],
)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, file: str, how: Callable[[Path], None], message: str
) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, step, write_policy, {"moments": torch.ones(100) * step})
    how(tmp_path / "step_000002" / file)
    with pytest.warns(UserWarning, match=f"step_000002 is damaged: .*{message}.*step_000001"):
        found = checkpoint.load(tmp_path)
    assert found.step == 1
    assert float(found.state()["moments"][0]) == 1
    how_else = tmp_path / "step_000001" / "state.json"
    how_else.unlink()
    with pytest.raises(ValueError, match="step_000002 .*; .*step_000001 .*state.json is missing"):
        checkpoint.load(tmp_path)


def test_a_manifest_that_is_json_but_not_ours(tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path, 1, write_policy, {})
    for content in ("[]", "{}", '{"format": 1, "files": {}}', '{"format": 99}', "null"):
        (saved / "manifest.json").write_text(content)
        with pytest.raises(ValueError, match="step_000001 is damaged"):
            checkpoint.load(tmp_path)


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=f"no checkpoint in {root}; start again"):
            checkpoint.load(root)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path, 1, write_policy, {"a": torch.ones(1)})
    torch.save({"a": 1}, saved / "tensors.safetensors")
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["files"]["tensors.safetensors"] = checkpoint._fingerprint(
        saved / "tensors.safetensors"
    )
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Exception, match="header"):
        checkpoint.load(tmp_path).state()


# -------------------------------------------------------------------------- kills and full disks

COMMON = """
import os, resource, signal, sys, time, warnings
from pathlib import Path
import torch
from vla_rl.storage import checkpoint
torch.set_num_threads(1)
root = Path(sys.argv[1])
def save(step, policy_bytes=10**6, numbers=10**5):
    def write_policy(folder):
        folder.mkdir()
        (folder / "weights.bin").write_bytes(b"w" * policy_bytes)
    state = {"moments": torch.full((numbers,), float(step))}
    checkpoint.save(root, step, write_policy, state)
"""

# Children are forked and killed inside a fresh process, so that torch is imported only once.
KILLS = """
warnings.simplefilter("error")  # nothing half written may even be looked at
save(1)
for delay in (0.003, 0.01, 0.02, 0.03, 0.05, 0.08, 0.13, 0.2):
    before = checkpoint.load(root).step
    child = os.fork()
    step = before
    while child == 0:
        step += 1
        save(step)
        (root.parent / "said").write_text(str(step))
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = checkpoint.load(root)
    said = (root.parent / "said")
    assert found.step >= (int(said.read_text() or 0) if said.exists() else before)
    assert torch.equal(found.state()["moments"], torch.full((10**5,), float(found.step)))
print("saved", found.step)
"""

FULL_DISK = """
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for sizes in [(10**6, 1), (1, 10**6)]:
    try:
        save(2, *sizes)
    except OSError as error:
        print(error)
"""


def run(program: str, root: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", COMMON + program, str(root)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_kill_in_the_middle_of_a_save_leaves_a_valid_checkpoint(tmp_path: Path) -> None:
    assert int(run(KILLS, tmp_path / "checkpoints").split()[1]) > 1


def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, write_policy, {})
    said = run(FULL_DISK, tmp_path).splitlines()
    assert len(said) == 2
    for line in said:
        assert line.startswith("could not save the checkpoint of step 2")
        assert "MB free there). Earlier checkpoints are intact" in line
    assert steps(tmp_path) == ["step_000001"]
    assert checkpoint.load(tmp_path).step == 1


def test_a_failing_writer_leaves_nothing(tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        write_policy(folder)
        raise RuntimeError("no such layer")

    with pytest.raises(RuntimeError, match="no such layer"):
        checkpoint.save(tmp_path, 1, broken, {})
    assert steps(tmp_path) == []


def test_free_space_is_checked_with_both_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=3_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    free_space_check(tmp_path / "not" / "there", 3_000_000)
    with pytest.raises(OSError, match=r"needs 5.0 MB but only 3.0 MB are free"):
        free_space_check(tmp_path / "not" / "there", 5_000_000)


def test_write_json_replaces_whole_files(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"lr": 1e-4})
    write_json(tmp_path / "config.json", {"lr": 3e-4})
    assert json.loads((tmp_path / "config.json").read_text()) == {"lr": 3e-4}
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


# ------------------------------------------------------------------------------------- flattening


def test_every_kind_of_value_comes_back_bit_for_bit(tmp_path: Path) -> None:
    shared = torch.ones(2)
    state = {
        "scalars": [None, True, 0, 2**130, -0.0, 0.1, 5e-324, float("inf"), "é"],
        "tuple": (1, (2.5, [3])),
        "int keys": {0: "a", 1: {"b": torch.tensor(7)}},
        "bytes": b"\x00\xff",
        "arrays": [np.arange(6, dtype=np.uint64).reshape(2, 3), np.zeros((1, 0), np.float32)],
        "tensors": [torch.tensor(3.5), torch.ones(2, dtype=torch.bfloat16), torch.zeros(0, 3)],
        "strided": torch.arange(6.0).reshape(2, 3).T,
        "shared": [shared, shared],
        "a.b": torch.tensor(1.0),
        "a": {"b": torch.tensor(2.0)},
        "__kind__": "mine",
    }
    checkpoint.save(tmp_path, 1, write_policy, state)
    assert same(checkpoint.load(tmp_path).state(), state)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1),
        lambda p: torch.optim.AdamW([{"params": p[:1], "lr": 1e-2, "initial_lr": 1e-2},
                                     {"params": p[1:]}], amsgrad=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-3)),
    ],
)  # fmt: skip
def test_a_restored_optimizer_goes_on_bit_for_bit(
    make: Callable[[list[Any]], torch.optim.Optimizer], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    gradients = [[torch.randn(4, 3), torch.randn(3)] for _ in range(6)]
    begin = [torch.randn(4, 3), torch.randn(3)]

    def train(optimizer: torch.optim.Optimizer, parameters: list[Any], which: list[Any]) -> None:
        for gradient in which:
            for parameter, g in zip(parameters, gradient, strict=True):
                parameter.grad = g.clone()
            optimizer.step()

    straight = [torch.nn.Parameter(t.clone()) for t in begin]
    optimizer = make(straight)
    train(optimizer, straight, gradients[:3])
    checkpoint.save(tmp_path, 3, write_policy, {"optimizer": optimizer.state_dict()})
    resumed = [torch.nn.Parameter(p.detach().clone()) for p in straight]
    train(optimizer, straight, gradients[3:])

    state = checkpoint.load(tmp_path).state()["optimizer"]
    fresh = make(resumed)
    fresh.load_state_dict(state)
    train(fresh, resumed, gradients[3:])
    assert same(fresh.state_dict(), optimizer.state_dict())
    for left, right in zip(resumed, straight, strict=True):
        assert torch.equal(left, right)


# --------------------------------------------------------------------------------- random numbers


def draw(own: np.random.Generator, philox: np.random.Generator, mine: torch.Generator) -> list[Any]:
    return [
        random.random(),
        random.gauss(0, 1),
        np.random.rand(),
        np.random.randn(),
        own.integers(0, 10, dtype=np.int32),  # leaves half a word behind
        own.standard_normal(3).tolist(),
        philox.random(),
        torch.rand(3).tolist(),
        torch.randn(1, generator=mine).item(),
    ]


def test_random_generators_go_on_where_they_were() -> None:
    generators: dict[str, Any] = {
        "own": np.random.default_rng(0),
        "philox": np.random.Generator(np.random.Philox(3)),
        "mine": torch.Generator().manual_seed(1),
    }
    draw(**generators)
    state = json.loads(json.dumps(capture_rng(generators)))
    expected = draw(**generators)
    fresh: dict[str, Any] = {
        "own": np.random.default_rng(9),
        "philox": np.random.Generator(np.random.Philox(9)),
        "mine": torch.Generator(),
    }
    restore_rng(state, fresh)
    assert draw(**fresh) == expected


def test_generators_of_other_names_are_refused() -> None:
    state = capture_rng({"own": np.random.default_rng(0)})
    with pytest.raises(ValueError, match=r"\['other'\] were given, saved were \['own'\]"):
        restore_rng(state, {"other": np.random.default_rng(0)})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_generators_go_on_where_they_were() -> None:
    state = json.loads(json.dumps(capture_rng()))
    expected = torch.rand(3, device="cuda").tolist()
    restore_rng(state)
    assert torch.rand(3, device="cuda").tolist() == expected


def test_a_state_saved_with_more_gpus_warns() -> None:
    state = capture_rng()
    state["cuda"] = state["cuda"] + [state["torch"]]
    with pytest.warns(UserWarning, match="noise drawn on GPUs will differ"):
        restore_rng(state)
