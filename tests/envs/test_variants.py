"""Variants of tasks change the simulated model as they say; splits hold what their names say."""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from vla_rl import cli
from vla_rl.contract import Subject
from vla_rl.envs import franka_kitchen, metaworld
from vla_rl.envs._kitchen import tasks as kitchen_tasks
from vla_rl.envs._kitchen.simulator import Settings
from vla_rl.envs._metaworld import tasks as metaworld_tasks
from vla_rl.envs._mujoco.variants import ALONG_X, ALONG_Y, Part, Variant
from vla_rl.world import World

SUITES = {"metaworld": metaworld, "franka_kitchen": franka_kitchen}
VARIANTS = {
    "metaworld": metaworld_tasks.VARIANTS,
    "franka_kitchen": kitchen_tasks.VARIANTS,
}
CASES = [
    pytest.param(suite, name, id=name, marks=pytest.mark.sim)
    for suite, variants in VARIANTS.items()
    for name in variants
]
# With this scope all tests of a variant run together, so few simulators are alive.
each_variant = pytest.mark.parametrize(("suite", "name"), CASES, scope="module")
STEPS = {"metaworld": 200, "franka_kitchen": 120}


@lru_cache(maxsize=4)
def made(suite, name):
    module = SUITES[suite]
    (task,) = World(suite, (name,), None).resolve().tasks
    return module.make(task, module.Settings())


def pair(suite, name):
    """The environments of a variant and of its base, and the variant's definition."""
    variant = VARIANTS[suite][name]
    return made(suite, name), made(suite, variant.base), variant


def model(env):
    return env._sawyer.model if isinstance(env, metaworld.MetaWorld) else env.model


# --------------------------------------------------------------------- a variant of some model

SCENE = """
<mujoco>
  <compiler inertiagrouprange="4 5"/>
  <asset><material name="paint" rgba="1 0 0 1"/><material name="glass" rgba="0 0 1 .5"/></asset>
  <worldbody>
    <body name="cupboard" pos="1 2 3">
      <body>
        <geom name="skin" size=".1" material="paint" contype="0" conaffinity="0" group="1"/>
        <geom size=".1" contype="2" conaffinity="5" condim="4" friction=".3 .2 .1" margin=".004"
              solref=".05 2" solimp=".5 .6 .02 .4 3" group="4"/>
        <body name="door"><joint/><geom size=".1" group="4"/></body>
      </body>
    </body>
    <body name="cloud"><geom size=".1" contype="0" conaffinity="0"/></body>
  </worldbody>
</mujoco>
"""


@pytest.fixture
def build(tmp_path):
    """What makes the model of a variant of the scene."""
    from vla_rl.envs._mujoco.variants import model_of

    path = tmp_path / "scene.xml"
    path.write_text(SCENE)
    return lambda **changes: model_of(Variant("some task", **changes), str(path))


def test_colours_are_those_of_the_materials_that_are_named(build):
    changed = build(colours={"paint": (0.0, 1.0, 0.0, 1.0)})
    assert changed.mat("paint").rgba.tolist() == [0, 1, 0, 1]
    assert changed.mat("glass").rgba.tolist() == [0, 0, 1, 0.5]


def test_a_part_is_seen_is_touched_like_its_body_and_weighs_nothing(build):
    plain = build()
    blue = (0.0, 0.0, 1.0, 1.0)
    changed = build(parts=(Part("cupboard", "box", (0.1, 0.2, 0.3), (1.0, 0.0, 0.5), blue),))
    assert changed.ngeom == plain.ngeom + 1
    np.testing.assert_array_equal(changed.body_mass, plain.body_mass)
    np.testing.assert_array_equal(changed.body_inertia, plain.body_inertia)
    (part,) = (g for g in map(changed.geom, range(changed.ngeom)) if g.size[2] == 0.3)
    assert changed.body(int(part.bodyid[0])).name == "cupboard"
    assert part.pos.tolist() == [1, 0, 0.5]
    np.testing.assert_allclose(part.rgba, blue)
    assert part.group[0] == 1
    # Those of the first shape below the body that anything can touch.
    assert (part.contype[0], part.conaffinity[0], part.condim[0]) == (2, 5, 4)
    np.testing.assert_allclose(part.friction, [0.3, 0.2, 0.1])
    np.testing.assert_allclose(part.solref, [0.05, 2])
    np.testing.assert_allclose(part.solimp, [0.5, 0.6, 0.02, 0.4, 3])
    assert part.margin[0] == 0.004


@pytest.mark.parametrize(("turn", "axis"), [(ALONG_X, [1, 0, 0]), (ALONG_Y, [0, 1, 0])])
def test_cylinders_are_laid_along_an_axis(build, turn, axis):
    import mujoco

    rod = Part("cupboard", "cylinder", (0.01, 0.7), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 1.0), turn)
    changed = build(parts=(rod,))
    data = mujoco.MjData(changed)
    mujoco.mj_forward(changed, data)
    (index,) = np.flatnonzero(changed.geom_size[:, 1] == 0.7)
    np.testing.assert_allclose(np.abs(data.geom_xmat[index].reshape(3, 3)[:, 2]), axis, atol=1e-9)


def test_the_body_that_is_named_is_shifted_and_no_other(build):
    changed = build(shift=(0.1, 0.0, -0.2), body="cupboard")
    moved = changed.body_pos - build().body_pos
    np.testing.assert_allclose(moved[changed.body("cupboard").id], [0.1, 0, -0.2], atol=1e-12)
    assert np.abs(moved).sum() == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colours": {"pint": (1.0, 1.0, 1.0, 1.0)}}, "'pint'; did you mean 'paint'.*glass"),
        ({"body": "door2"}, "'door2'; did you mean 'door'.*allowed: world, cupboard, cloud, door"),
        (
            {"parts": (Part("dor", "sphere", (0.1,), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 1.0)),)},
            "body of the model 'dor'; did you mean 'door'",
        ),
        (
            {"parts": (Part("cloud", "sphere", (0.1,), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 1.0)),)},
            "nothing on body 'cloud' can be touched",
        ),
    ],
)
def test_what_the_model_does_not_have_is_named(build, changes, words):
    with pytest.raises(ValueError, match=words):
        build(**changes)


# ------------------------------------------------------------------------------ all of ours


@each_variant
def test_a_variant_looks_different_from_the_first_frame_on(suite, name):
    env, base, _ = pair(suite, name)
    for each in (env, base):
        each.start(3)
    ours, theirs = (each.observe().images[0].astype(int) for each in (env, base))
    changed = np.abs(ours - theirs).max(axis=-1) > 40
    assert changed.mean() > 0.03


@each_variant
def test_the_model_has_the_colours_and_the_parts(suite, name):
    env, base, variant = pair(suite, name)
    ours, theirs = model(env), model(base)
    assert ours.ngeom == theirs.ngeom + len(variant.parts)
    for material, colour in variant.colours.items():
        np.testing.assert_allclose(ours.mat(material).rgba, colour)
        assert np.abs(theirs.mat(material).rgba - colour).max() > 0.2
        shown = ours.geom_group[ours.geom_matid == ours.mat(material).id]
        assert (shown <= 2).any(), f"nothing is made of {material}"
    np.testing.assert_array_equal(ours.body_mass, theirs.body_mass)
    np.testing.assert_array_equal(ours.body_inertia, theirs.body_inertia)


@each_variant
def test_its_starts_are_those_of_the_base_shifted(suite, name):
    env, base, variant = pair(suite, name)
    assert 0.02 <= np.linalg.norm(variant.shift) <= 0.08
    for seed in (1, 2):
        for each in (env, base):
            each.start(seed)
        moved = model(env).body_pos - model(base).body_pos
        (thing,) = np.flatnonzero(np.abs(moved).max(axis=1) > 1e-9)
        np.testing.assert_allclose(moved[thing], variant.shift, atol=1e-9)


@each_variant
def test_the_expert_of_the_base_solves_it(suite, name):
    env = made(suite, name)
    expert = SUITES[suite].expert(env.task)
    for seed in (1, 2):
        progress = [env.start(seed)]
        while progress[-1] < 1.0 and len(progress) <= STEPS[suite]:
            progress.append(env.advance(expert(env)).progress)
        assert progress[-1] == 1.0, seed
        assert progress[0] == 0.0


@each_variant
def test_parts_are_in_nobodys_way_at_a_start(suite, name):
    env, base, variant = pair(suite, name)
    ours = model(env)
    parts = parts_of(ours, variant)
    assert len(parts) == ours.ngeom - model(base).ngeom
    if suite == "franka_kitchen":
        assert not parts
        return
    for seed in range(5):
        env.start(seed)
        touching = [set(geoms) for geoms in env._sawyer.data.contact.geom.tolist()]
        for geoms in touching:
            for part in geoms & parts:
                # Meta-World starts some episodes with the hand on the handle, parts or not.
                (other,) = geoms - {part}
                same = set(np.flatnonzero(ours.geom_bodyid == ours.geom_bodyid[part])) - parts
                assert any({other, geom} in touching for geom in same), seed


def parts_of(changed, variant):
    """The geoms of a variant's model that were added to it."""
    colours = [part.colour for part in variant.parts]
    solid = np.flatnonzero((changed.geom_conaffinity > 0) & (changed.geom_group == 1))
    return {g for g in solid.tolist() if any(np.allclose(changed.geom_rgba[g], c) for c in colours)}


@pytest.mark.sim
def test_the_hand_presses_the_larger_cap_of_a_button():
    env, _, variant = pair("metaworld", "button-press-new")
    expert, button = metaworld.expert(env.task), model(env).body("button").id
    (cap,) = (g for g in parts_of(model(env), variant) if model(env).geom_bodyid[g] == button)
    env.start(1)
    pressed = False
    while not env.advance(expert(env)).success:
        pressed = pressed or bool(np.isin(env._sawyer.data.contact.geom, cap).any())
    assert pressed


@pytest.mark.sim
def test_environments_of_a_kitchen_share_a_model_and_variants_have_their_own():
    kitchens = [
        franka_kitchen.make(task, Settings(cameras=()))
        for name in ("microwave", "kettle", "microwave-yellow", "microwave-yellow")
        for task in World("franka_kitchen", (name,), None).resolve().tasks
    ]
    first, second, third, fourth = (kitchen.model for kitchen in kitchens)
    assert first is second
    assert third is fourth
    assert first is not third


# ------------------------------------------------------------------------ splits and sentences


@pytest.mark.parametrize(
    ("suite", "sizes"),
    [
        ("metaworld", {"all": 50, "ire-expert": 25, "ire-rl": 5, "ire-unseen": 10}),
        ("franka_kitchen", {"all": 12, "ire-expert": 5, "ire-rl": 2, "ire-unseen": 3}),
    ],
)
def test_splits_have_their_sizes_and_what_is_new_is_no_part_of_what_was_shown(suite, sizes):
    splits = SUITES[suite].SPLITS
    assert {name: len(ids) for name, ids in splits.items()} == sizes
    shown, practised, unseen = (set(splits[f"ire-{part}"]) for part in ("expert", "rl", "unseen"))
    assert shown <= set(splits["all"])
    assert practised | unseen == SUITES[suite].VARIANTS.keys()
    assert not practised & unseen
    assert not (practised | unseen) & set(splits["all"])
    # A variant is of a skill that was shown.
    assert set(SUITES[suite].VARIANTS.values()) <= shown


@pytest.mark.parametrize("suite", SUITES)
def test_a_variant_is_told_what_its_base_is_told(suite):
    said = {task.id: (task.instruction, task.max_steps) for task in SUITES[suite].tasks()}
    for name, base in SUITES[suite].VARIANTS.items():
        assert said[name] == said[base]


@pytest.mark.parametrize("suite", SUITES)
def test_no_two_variants_of_a_task_look_alike_or_stand_alike(suite):
    of_base = {}
    for variant in VARIANTS[suite].values():
        of_base.setdefault(variant.base, []).append(variant)
    for variants in of_base.values():
        for index, variant in enumerate(variants):
            for other in variants[:index]:
                assert variant.colours != other.colours
                assert variant.shift != other.shift


def test_the_list_shows_variants_with_their_base_and_splits(capsys):
    assert cli.main(["list", "tasks"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"drawer-open-new +pull the drawer open +drawer-open-v3", shown)
    assert re.search(r"drawer-open-v3 +pull the drawer open +easy *\n", shown)
    assert "splits of metaworld" in shown
    assert re.search(r"ire-rl +5 +button-press-new drawer-open-new", shown)
    assert cli.main(["list", "tasks", "--env", "point_reach"]) == 0
    shown = capsys.readouterr().out
    assert "variant" not in shown
    assert "splits" not in shown


def test_the_example_of_the_documents_has_variants_and_splits(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "environments.md").read_text()
    suite, more = (
        re.search(pattern, page, re.DOTALL)
        for pattern in (r"```python\n(# light_rail\.py\n.*?)```", r"```py\n(.*?)```")
    )
    assert suite is not None
    assert more is not None
    # Under another name, because other tests import the example too.
    text = (suite[1] + "\n\n" + more[1]).replace("light_rail", "dim_rail")
    (tmp_path / "dim_rail.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    Subject("dim_rail").must_pass("tasks")
    assert World("dim_rail", ("practice", "right"), None).task_ids() == ("left-dim", "right")
    assert World("dim_rail", ("all",), None).task_ids() == ("left", "right")
    del sys.modules["dim_rail"]
