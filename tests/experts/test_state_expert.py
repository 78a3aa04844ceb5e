"""Experts trained on the true state: they learn unseen, are kept without pickle, and record."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vla_rl import cli
from vla_rl.demos.demo_set import DemoSet
from vla_rl.envs import point_reach
from vla_rl.experts.state_expert import StateExpert, play_expert
from vla_rl.experts.training import ExpertTraining, PPOConfig, SACConfig, StateEnv
from vla_rl.results.evaluation import EvalResult
from vla_rl.results.metrics import read_metrics
from vla_rl.sim import Outcome
from vla_rl.storage import checkpoint
from vla_rl.storage.state import flatten
from vla_rl.types import SEED_RANGES, seed_for

TASK = point_reach.tasks()[0]
CONFIGS = {
    "sac": SACConfig(
        envs=8, gradient_steps=1, hidden=(64, 64), learning_rate=3e-3, learning_starts=400
    ),
    "ppo": PPOConfig(envs=8, n_steps=64, batch_size=128, hidden=(64, 64), learning_rate=1e-3),
}
STEPS = {"sac": 4_000, "ppo": 10_000}


class Watched(point_reach.PointReach):
    """Counts looks and remembers starts."""

    def __init__(self, *about):
        self.looks, self.seeds = 0, []
        super().__init__(*about)

    def start(self, seed):
        self.seeds.append(seed)
        return super().start(seed)

    def observe(self):
        self.looks += 1
        return super().observe()


def simulator():
    return Watched(TASK, point_reach.Settings())


def success(expert, episodes=100):
    """On starts that are never trained on."""
    env = simulator()
    return np.mean(
        [play_expert(env, expert, seed_for("eval", i))[0].success for i in range(episodes)]
    )


@pytest.fixture(scope="module", params=CONFIGS)
def trained(request):
    """A training that is done, and the simulators that it used."""
    made = []

    def make():
        made.append(simulator())
        return made[-1]

    training = ExpertTraining(make, CONFIGS[request.param], seed=0)
    before = success(training.expert())
    training.learn(STEPS[request.param])
    return training, made, before


def test_it_learns_on_starts_for_training_and_never_looks(trained):
    training, made, before = trained
    assert before < 0.5
    assert success(training.expert()) > 0.9
    assert training.success > 0.6  # while exploring
    assert len(made) == CONFIGS[training.expert().algorithm].envs
    assert sum(sim.looks for sim in made) == 0
    seeds = [seed for sim in made for seed in sim.seeds[1:]]  # the first is the maker's own
    assert all(seed in SEED_RANGES["train"] for seed in seeds)
    assert len(set(seeds)) == len(seeds) > 100


def test_a_saved_expert_acts_identically(trained, tmp_path):
    training, _, _ = trained
    expert, env = training.expert(), simulator()
    expert.save(tmp_path / "expert.safetensors")
    loaded = StateExpert.load(tmp_path / "expert.safetensors")
    assert loaded.algorithm == expert.algorithm
    for seed in range(20):
        env.start(seed)
        action = expert(env)
        assert np.array_equal(loaded(env), action)
        assert action.dtype == np.float32
        assert env.action_space.contains(action)


def test_it_acts_as_stable_baselines_would(trained):
    training, _, _ = trained
    model, envs, expert, env = training._model, training._envs, training.expert(), simulator()
    for seed in range(20):
        env.start(seed)
        state = envs.normalize_obs(env.privileged.astype(np.float32))
        theirs, _ = model.predict(state, deterministic=True)
        np.testing.assert_allclose(expert(env), theirs, atol=1e-5)


def test_a_resumed_training_knows_what_it_knew_and_goes_on(trained, tmp_path):
    training, _, _ = trained
    training.save(tmp_path)
    config = CONFIGS[training.expert().algorithm]
    again = ExpertTraining(simulator, config, seed=0)
    again.load_state_dict(checkpoint.load(tmp_path).state())
    left, right = (flatten(t.state_dict())[1] for t in (training, again))
    assert left.keys() == right.keys()
    assert all((left[name] == right[name]).all() for name in left)
    assert again.steps == training.steps
    again.learn(1)
    assert again.steps > training.steps
    assert success(again.expert()) > 0.9
    unlike = {"sac": {"buffer_size": 100_000}, "ppo": {"hidden": (8,)}}[config.name]
    other = ExpertTraining(simulator, replace(config, **unlike), seed=0)
    with pytest.raises(ValueError, match="settings that it was begun with"):
        other.load_state_dict(checkpoint.load(tmp_path).state())


def test_two_runs_of_a_seed_are_the_same_run():
    def learned(seed):
        training = ExpertTraining(simulator, CONFIGS["ppo"], seed)
        training.learn(1)
        return training.expert().layers[0][0]

    assert np.array_equal(learned(0), learned(0))
    assert not np.array_equal(learned(0), learned(1))


@pytest.mark.parametrize(
    ("outcome", "paid"),
    [
        (Outcome(2.0, False, False, False, 0.5), 2.0),
        (Outcome(2.0, False, True, False, 0.5), 2.0),
        (Outcome(2.0, True, False, False, 0.5), 2.0),  # a failure that ends the episode
        (Outcome(2.0, True, False, True, 1.0), 20.0),
        (Outcome(-2.0, True, False, True, 1.0), -2.0),
    ],
)
def test_a_solved_state_is_paid_for_ever(outcome, paid, monkeypatch):
    sim = simulator()
    monkeypatch.setattr(sim, "advance", lambda action: outcome)
    _, reward, terminated, truncated, info = StateEnv(sim, gamma=0.9).step(np.zeros(2, np.float32))
    assert reward == pytest.approx(paid)
    assert (terminated, truncated) == (outcome.terminated, outcome.truncated)
    assert info == {"is_success": outcome.success}


def test_an_environment_without_a_true_state_is_told_of(monkeypatch):
    class Plain(point_reach.PointReach):
        privileged = point_reach.SimEnv.privileged

    with pytest.warns(UserWarning, match="Plain defines no `privileged` state"):
        StateEnv(Plain(TASK, point_reach.Settings()), 0.9)


def test_what_is_not_an_expert_is_refused(tmp_path):
    file = tmp_path / "expert.safetensors"
    with pytest.raises(ValueError, match="not an expert"):
        StateExpert.load(file)
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="not an expert"):
        StateExpert.load(file)
    StateExpert("dqn", np.zeros(4, np.float32), np.ones(4, np.float32), ()).save(file)
    with pytest.raises(ValueError, match="'dqn'.*allowed: sac, ppo"):
        StateExpert.load(file)
    small = StateExpert("sac", np.zeros(3, np.float32), np.ones(3, np.float32), ())
    with pytest.raises(ValueError, match="trained on 3 numbers .* has 4"):
        small(simulator())


# ------------------------------------------------------------------------------------ the command


def expert(*words) -> int:
    options = [
        *("expert", "--suite", "point_reach", "--tasks", "red", "green", "--algo", "ppo"),
        *("--ppo.n-steps", "64", "--ppo.envs", "8", "--ppo.batch-size", "128"),
        *("--ppo.learning-rate", "1e-3", "--eval.episodes-per-task", "20"),
    ]
    return cli.main([str(word) for word in [*options, *words]])


def test_the_command_trains_evaluates_and_records(tmp_path, capsys):
    out = tmp_path / "run"
    assert expert("--out", out, "--steps", "1024", "--episodes", "0") == 0
    assert not (out / "demos").exists()
    first = capsys.readouterr().out
    assert "resuming" not in first

    go_on = ["--resume", "--steps", "10000", "--checkpoint-every", "4000"]
    assert expert("--out", out, *go_on, "--episodes", "3") == 0
    shown = capsys.readouterr().out
    assert "red: resuming after 1024 steps" in shown
    result = EvalResult.from_json((out / "eval.json").read_text())
    assert {task: r.successes for task, r in result.tasks.items()}.keys() == {"red", "green"}
    assert all(task.rate.value > 0.8 for task in result.tasks.values())
    assert all(seed in SEED_RANGES["eval"] for t in result.tasks.values() for seed in t.seeds)
    rows = read_metrics(out / "metrics.jsonl")
    assert [r["step"] for r in rows if "expert/red/steps_per_second" in r][0] == 1024
    assert any(r.get("expert/green/success", 0) > 0.5 for r in rows)

    demos = DemoSet.open(out / "demos").load()
    assert [d.spec.task.id for d in demos] == ["red"] * 3 + ["green"] * 3
    for demo in demos:
        assert demo.success
        assert demo.source == "expert:ppo"
        assert demo.spec.seed in SEED_RANGES["demo"]
        assert demo.obs.images.shape == (len(demo), 1, 16, 16, 3)
        assert len(np.unique(demo.obs.images, axis=0)) == len(demo), "a frame for every action"

    assert expert("--out", out, *go_on, "--episodes", "4") == 0
    seeds = [(s.task.id, s.seed) for s in DemoSet.open(out / "demos").specs()]
    assert len(set(seeds)) == len(seeds) == 8

    clone = ["--network", "tiny", "--net.chunk", "2", "--sft.steps", "5", "--sft.image-shift", "0"]
    assert cli.main(["sft", "--demos", f"{out}/demos", "--out", f"{tmp_path}/sft", *clone]) == 0
    kinds = {f.suffix for f in out.rglob("*") if f.is_file()}
    assert kinds == {".json", ".jsonl", ".safetensors", ".hdf5", ".vla-rl"}, "nothing pickled"


def test_an_expert_that_solves_nothing_records_nothing(tmp_path, capsys):
    # No goal is near enough to be reached in one step.
    assert expert("--out", tmp_path / "run", "--steps", "1", "--max-steps", "1") == 1
    error = capsys.readouterr().err
    assert "solves none of the held-out starts of red, green" in error
    assert "--resume" in error
    assert not (tmp_path / "run" / "demos").exists()
    assert (tmp_path / "run" / "expert" / "red.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--algo", "dqn"], "dqn"),
        (["--tasks", "rad"], "did you mean 'red'"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--episodes", "-1"], "0 (record none) or more, got -1"),
        (["--ppo.gamma", "1"], "gamma must be in [0, 1), got 1"),
        (["--sac.ent-coef", "much"], "'much' must be a number"),
        (["--sac.hidden", "0"], "widths of at least 1"),
        (["--eval.protocol", "x"], "point-reach"),
    ],
)
def test_bad_input_is_answered_before_any_work(words, answer, tmp_path, capsys):
    try:
        status = expert("--out", tmp_path / "run", *words)
    except SystemExit as stopped:  # tyro's own way out
        status = int(stopped.code or 0)
    assert status == 2
    captured = capsys.readouterr()
    said = " ".join((captured.err + captured.out).replace("│", " ").split())
    assert answer in said
    assert not list(tmp_path.iterdir())
