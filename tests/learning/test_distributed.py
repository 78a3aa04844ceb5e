"""Two processes do what one does: the same groups, the same gradients, one run folder."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from tests.helpers import WORLD, fake_returns, fresh, make_policy, play_groups
from tests.user_code import learned_reward
from vla_rl import cli
from vla_rl.algorithms import dr_grpo, gfpo, grpo, gspo, ppo
from vla_rl.commands import train
from vla_rl.curricula import uniform
from vla_rl.episode_end import EpisodeEnd
from vla_rl.evaluate import EvalConfig, evaluate
from vla_rl.learning.distributed import ALONE, Ranks, join
from vla_rl.learning.learner import Learner, LearnerConfig
from vla_rl.results.metrics import read_metrics
from vla_rl.rewards import dense
from vla_rl.rollout.collector import RolloutConfig
from vla_rl.rollout.play import PlaySettings
from vla_rl.stages import setup
from vla_rl.stages.loop_state import loop_state
from vla_rl.stages.run import new_run, save_policy
from vla_rl.stages.setup import open_collector
from vla_rl.train import Loop
from vla_rl.train_config import TrainConfig
from vla_rl.types import RolloutBatch

# --------------------------------------------------------------- what every rank does, or one alone


def dealt_and_collected(ranks):
    return [ranks.gather([i * i for i in ranks.share(range(count))]) for count in range(6)]


def collected_unevenly(ranks):
    return ranks.all_gather([np.full(ranks.rank, 7.0)] * 2 * ranks.rank)


def gathered_too_much(ranks):
    with pytest.raises(ValueError, match="slice"):
        ranks.gather(list(range(3 * ranks.rank)))


def only_the_last_says_so(ranks):
    return ranks.any(ranks.rank == ranks.size - 1), ranks.any(False)


def failing_main(ranks):
    def fail():
        raise FileExistsError(f"said by {ranks.rank}")

    with pytest.raises(FileExistsError, match="said by 0"):
        ranks.on_main(fail)


def one_decay(ranks):
    """A step in which only the last rank has a loss, of one parameter only."""
    policy = make_policy()
    learner = Learner(policy, LearnerConfig(weight_decay=0.5), ("head", "critic"), ranks=ranks)
    if ranks.rank == ranks.size - 1:
        learner.accumulate(policy.groups()["head"][0].square().sum())
    learner.step()
    return parameters(policy)


def parameters(policy):
    return {name: p.detach().clone() for name, p in policy.named_parameters()}


def from_afar(group):
    return [t.from_afar() for t in group]


def batch_for(policy, ranks=ALONE):
    """Six episodes of each task, every other one a success; they differ in length."""
    groups = []
    for group in play_groups(policy, groups=3, size=6, final_value=True):
        cut = [replace(t, success=bool(i % 2)) for i, t in enumerate(group)]
        groups.append(fake_returns(cut, [float(t.success) for t in cut]))
    return RolloutBatch.pack(ranks.exchange(ranks.share(groups), from_afar))


SMALL: dict[str, Any] = {"ppo_epochs": 3, "ppo_mini_batch_size": 25, "target_kl": 0.0}
UPDATES = {
    "grpo": lambda: grpo.Algorithm(**SMALL, ppo_micro_batch_size=8),
    "gspo": lambda: gspo.Algorithm(**SMALL),
    "ppo": lambda: ppo.Algorithm(**SMALL, critic_warmup=0),
    "gfpo": lambda: gfpo.Algorithm(
        **SMALL, group_size=6, num_remains_in_group=4, metric="path_length"
    ),
    "dr_grpo": lambda: dr_grpo.Algorithm(**SMALL),
    "dr_grpo that stops early": lambda: dr_grpo.Algorithm(**{**SMALL, "target_kl": 1e-4}),
    "ppo in warm-up": lambda: ppo.Algorithm(**SMALL, critic_warmup=1),
    # One episode is one piece, so only the main rank ever has work.
    "gspo by the episode": lambda: gspo.Algorithm(**{**SMALL, "ppo_mini_batch_size": 1}),
    "gspo in one step": lambda: gspo.Algorithm(**{**SMALL, "ppo_mini_batch_size": 0}),
}


def updated(name, ranks):
    """Parameters and metrics after one update."""
    algorithm, policy = UPDATES[name](), make_policy()
    config = LearnerConfig(lr=3e-4, weight_decay=0.01, warmup_steps=0)
    learner = Learner(policy, config, algorithm.trains, ranks=ranks)
    learner.reference = copy.deepcopy(policy)
    metrics = algorithm.update(
        learner, batch_for(policy, ranks), fresh(algorithm), np.random.default_rng(0)
    )
    return SimpleNamespace(parameters=parameters(policy), metrics=metrics)


# Groups of four that an iteration plays; of a single one the other rank plays nothing.
ITERATIONS = {
    "from images": (5, {"dense": dense.Reward()}),
    "from one group": (1, {"dense": dense.Reward()}),
    "with a reward that learns": (
        5,
        {"dense": dense.Reward(), "learned": learned_reward.Reward(scale=0.1)},
    ),
}


def iterated(name, ranks):
    """Two iterations that train the backbone; bytes of images seen here, and of what was sent."""
    groups, rewards = copy.deepcopy(ITERATIONS[name])
    arena, policy = WORLD.resolve(), make_policy()
    seen: list[int] = []
    sent: list[int] = []

    def look(played, iteration):
        seen.extend(t.obs.images.nbytes for group in played for t in group if t.here)

    gather = dist.all_gather_object

    def counted(parts, items):
        sent.append(len(pickle.dumps(items)))
        gather(parts, items)

    algorithm = grpo.Algorithm(group_size=4, ppo_epochs=1, ppo_mini_batch_size=25)
    learner = Learner(policy, LearnerConfig(warmup_steps=0), ("vlm", "head"), ranks=ranks)
    learner.reference = copy.deepcopy(policy)
    with (
        open_collector(arena, RolloutConfig(workers=1, placement="served"), None) as collector,
        mock.patch.object(dist, "all_gather_object", counted),
    ):
        loop = Loop(
            collector,
            learner,
            algorithm,
            uniform.Curriculum(arena.tasks, seed=0),
            rewards,
            EpisodeEnd(),
            arena.tasks,
            TrainConfig(episodes_per_iteration=4 * groups),
            seed=0,
            keeper=SimpleNamespace(keep=look, state_dict=dict),
        )
        metrics = [loop.step() for _ in range(2)]
    rewards = loop_state(loop)["rewards"]
    return SimpleNamespace(
        parameters=parameters(policy),
        metrics=metrics,
        rewards=rewards,
        seen=sum(seen),
        sent=sum(sent),
    )


def evaluated(ranks):
    """An evaluation whose starts are shared out, 5 of each of 3 tasks."""
    config = EvalConfig(episodes_per_task=5, starts="validation")
    with open_collector(WORLD.resolve(), RolloutConfig(workers=1, placement="served"), None) as c:
        return evaluate(c, make_policy(), WORLD.resolve(), config, ranks=ranks)


JOBS = {
    "evaluated": evaluated,
    "dealt": dealt_and_collected,
    "uneven": collected_unevenly,
    "too much": gathered_too_much,
    "anyone": only_the_last_says_so,
    "failing": failing_main,
    "decay": one_decay,
    **{name: partial(updated, name) for name in UPDATES},
    **{name: partial(iterated, name) for name in ITERATIONS},
}


def new_runs(ranks, folder):
    """Begin a run, and once more."""
    command = train.Command(policy=Path("p"), out=folder, world=WORLD)
    run = new_run(folder, command, resume=False, ranks=ranks)
    run.metrics.write(1, {"rank": ranks.rank})
    with pytest.raises(FileExistsError, match="already holds a run"):
        new_run(folder, command, resume=False, ranks=ranks)


def train_words(out, policy):
    """A short run; the rewards differ inside a group, though the policy solves next to nothing."""
    return [
        *("train", "--policy", policy, "--out", out, "--algorithm", "grpo"),
        # Torch-free workers start sooner. 7 groups, which two processes cannot share evenly.
        *("--rollout.placement", "served", "--train.episodes-per-iteration", "56"),
        *("--rewards", "dense", "--train.iterations", "3"),
    ]


def member(rank, ports, folder):
    """A process of two: all the jobs, then a run."""
    torch.set_num_threads(1)
    os.environ.update(
        {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=f"{ports[0]}",
    )
    with join() as ranks:
        assert ranks == Ranks(rank, 2, 2)
        results = {name: job(ranks) for name, job in JOBS.items()}
        new_runs(ranks, folder / "new")
    assert not dist.is_initialized()
    os.environ["MASTER_PORT"] = f"{ports[1]}"
    words = train_words(folder / "run", folder / "policy")
    with redirect_stdout(StringIO()) as said:
        assert cli.main([str(word) for word in words]) == 0
    assert not dist.is_initialized()
    results["said"] = said.getvalue()
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(results))


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Results of two processes, and their folder."""
    folder = tmp_path_factory.mktemp("two")
    save_policy(make_policy(), WORLD.resolve(), folder / "policy")
    ports = (free_port(), free_port())
    multiprocessing.set_forkserver_preload([__name__])
    torch.multiprocessing.start_processes(
        member, (ports, folder), nprocs=2, start_method="forkserver"
    )
    results = [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(2)]
    return SimpleNamespace(folder=folder, main=results[0], other=results[1])


# -------------------------------------------------------------------------------------- the ranks


def test_what_is_shared_comes_back_in_order(two):
    expected = [[i * i for i in range(count)] for count in range(6)]
    assert two.main["dealt"] == two.other["dealt"] == dealt_and_collected(ALONE) == expected
    assert Ranks(1, 3).share("abcdefgh") == ["b", "e", "h"]


def test_uneven_lists_are_joined(two):
    for side in (two.main, two.other):
        assert [list(part) for part in side["uneven"]] == [[7.0], [7.0]]
    assert collected_unevenly(ALONE) == []


def test_ranks_share_the_starts_of_an_evaluation_and_all_know_its_result(two):
    whole, episodes = evaluated(ALONE)
    for rank, (result, played) in enumerate((two.main["evaluated"], two.other["evaluated"])):
        assert result == whole
        assert [t.spec for t in played] == [t.spec for t in episodes][rank::2]


def test_one_voice_is_enough(two):
    assert two.main["anyone"] == two.other["anyone"] == only_the_last_says_so(ALONE)
    assert two.main["anyone"] == (True, False)


def test_an_error_of_the_main_process_is_everybodys(two):
    failing_main(ALONE)  # the others have asserted it


def test_only_the_main_process_writes(two):
    assert [row["rank"] for row in read_metrics(two.folder / "new" / "metrics.jsonl")] == [0]


def test_alone_without_torchrun(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join() as ranks:
        assert ranks is ALONE


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"2 processes.*1 GPUs.*--device cpu"), join("cuda"):
        pass


@pytest.mark.parametrize(("given", "local", "got"), [(0, 1, 0), (0, 2, 2), (0, 9, 1), (3, 2, 3)])
def test_processes_on_one_machine_share_its_cores(given, local, got, monkeypatch):
    monkeypatch.setattr(setup, "cores", lambda: 5)
    with mock.patch.object(setup, "LocalCollector") as collector:
        open_collector(WORLD.resolve(), RolloutConfig(workers=given), None, Ranks(0, 9, local))
    assert collector.call_args.args[2].workers == got


def test_a_rank_without_groups_collects_nothing():
    with open_collector(WORLD.resolve(), RolloutConfig(workers=1), None) as collector:
        rollout = collector.collect(make_policy(), [], [], PlaySettings())
    assert rollout.trajectories == []


# ------------------------------------------------------------------------------------ the gradient


def equal(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("name", UPDATES)
def test_two_processes_update_like_one(name, two):
    one, main, other = updated(name, ALONE), two.main[name], two.other[name]
    assert equal(main.parameters, other.parameters)
    assert not equal(one.parameters, parameters(make_policy()))
    for key, value in one.parameters.items():
        torch.testing.assert_close(main.parameters[key], value, atol=1e-5, rtol=0)
    assert main.metrics == other.metrics
    assert main.metrics == pytest.approx(one.metrics, abs=1e-4, rel=1e-4)


def test_early_stopping_is_agreed_on(two):
    steps = {name: two.main[name].metrics["actor/updates"] for name in UPDATES}
    assert 0 < steps["dr_grpo that stops early"] < steps["dr_grpo"]
    assert steps["gspo in one step"] == SMALL["ppo_epochs"]
    assert steps["gspo by the episode"] == 18 * SMALL["ppo_epochs"]


def test_a_waiting_actor_does_not_move(two):
    before = parameters(make_policy())
    after = two.main["ppo in warm-up"].parameters
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert {name.partition(".")[0] for name in moved} == {"critic"}


def test_a_parameter_without_gradient_on_any_rank_does_not_decay(two):
    before, alone = parameters(make_policy()), one_decay(ALONE)
    moved = [name for name in before if not torch.equal(before[name], alone[name])]
    assert len(moved) == 1
    assert equal(two.main["decay"], alone)
    assert equal(two.other["decay"], alone)


def test_what_another_rank_saw_cannot_be_scored():
    policy = make_policy()
    learner = Learner(policy, LearnerConfig(), ("head",))
    group = play_groups(policy, groups=3, size=2)[0]
    batch = RolloutBatch.pack([group, from_afar(group)])
    (rows,) = learner.minibatches(batch, 0, np.random.default_rng(0))
    (own,) = learner.parts(batch, rows, 0)
    assert len(own) == batch.valid[:2].sum() == len(rows) / 2
    assert learner.evaluate(batch, own).logprob.isfinite().all()
    with pytest.raises(ValueError, match="another rank made some of these decisions"):
        learner.evaluate(batch, rows)


# -------------------------------------------------------------------------------- whole iterations


@pytest.mark.parametrize("name", ITERATIONS)
def test_two_processes_iterate_like_one(name, two):
    one, main, other = iterated(name, ALONE), two.main[name], two.other[name]
    assert equal(main.parameters, other.parameters)
    assert not equal(one.parameters, parameters(make_policy()))
    for key, value in one.parameters.items():
        torch.testing.assert_close(main.parameters[key], value, atol=1e-4, rtol=0)
    same_rows(main.metrics, one.metrics)
    assert main.rewards == other.rewards == one.rewards


def test_what_a_reward_learns_is_the_same_on_all_ranks(two):
    for side in (two.main, two.other):
        assert side["with a reward that learns"].rewards["learned"] == {"seen": 2 * 5 * 4}


def test_images_stay_where_they_were_seen(two):
    """Only a reward that learns from images has them sent."""
    for side in (two.main, two.other):
        told, shown = side["from images"], side["with a reward that learns"]
        assert told.sent < told.seen / 2  # though these images are tiny
        assert shown.sent > shown.seen


# ------------------------------------------------------------------------------------ a whole run


@pytest.fixture(scope="module")
def run_of_one(two):
    """The metrics of five iterations of a single process."""
    out = two.folder / "one"
    words = [*train_words(out, two.folder / "policy"), "--train.iterations", "5"]
    assert cli.main([str(word) for word in words]) == 0
    return read_metrics(out / "metrics.jsonl")


def same_rows(left, right):
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            if "success" in key or "steps" in key or "groups" in key:
                assert a[key] == b[key], key
            elif not key.startswith("time"):
                assert a[key] == pytest.approx(b[key], abs=1e-3, rel=1e-3), key


def test_two_processes_make_one_run(two, run_of_one):
    out = two.folder / "run"
    same_rows(read_metrics(out / "metrics.jsonl"), run_of_one[:3])
    assert (out / "policy" / "model.safetensors").exists()
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step_000003"]
    assert "improve 3 of 3" in two.main["said"]
    assert two.other["said"] == ""


def test_torchrun_goes_on_with_it_and_ends_when_it_is_asked_to(two, run_of_one, tmp_path):
    out = Path(shutil.copytree(two.folder / "run", tmp_path / "run"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words = ["train", "--out", str(out), "--resume", "--train.iterations", "100000"]
    running = subprocess.Popen(
        [*launch, "--nproc-per-node", "2", "-m", "vla_rl", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 180  # starting two processes takes long
        while len(read_metrics(out / "metrics.jsonl")) < 6:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        family = psutil.Process(running.pid).children(recursive=True)
        running.send_signal(signal.SIGTERM)  # it hands this on
        said, errors = running.communicate(timeout=60)
    finally:
        running.kill()  # one that has ended is left alone
    assert said.count("resuming after iteration 3") == 1
    assert errors.count("\ninterrupted") == 2, errors
    _, left = psutil.wait_procs(family, timeout=20)
    assert not left
    rows = read_metrics(out / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert (out / "checkpoints" / f"step_{len(rows):06d}" / "manifest.json").exists()
    same_rows(rows[:5], run_of_one)
