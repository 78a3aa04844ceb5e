"""What has to be known of episodes of other people before they are imported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.demos.exchange.helpers import WORLD, cameras, foreign
from vla_rl.demos.exchange import importing, minari_format
from vla_rl.demos.exchange.importing import ImportSettings
from vla_rl.world import World

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")


@pytest.mark.parametrize(
    ("settings", "tasks", "message"),
    [
        (
            ImportSettings(),
            ("push",),
            "does not say which episodes were solved; add --success all",
        ),
        (
            ImportSettings(success="all"),
            ("all",),
            "has no instructions; .* --tasks",
        ),
        (
            ImportSettings(views=("front", "hand")),
            ("push",),
            r"no image 'front': .*front \(32x32x3\)",
        ),
        (
            ImportSettings(views=("cams/hand",)),
            ("push",),
            "names 1 images, but the views .* are front, hand",
        ),
        (ImportSettings(state=("legs",)), ("push",), r"no numbers 'legs': .*arm \(2\), grip \(1\)"),
        (ImportSettings(state=("arm",)), ("push",), "makes 2 numbers, but .* toys has 3 numbers"),
        (ImportSettings(action_low=(0,)), ("push",), "both --action-low and --action-high"),
        (
            ImportSettings(action_low=(0,) * 3, action_high=(1,)),
            ("push",),
            "3 numbers; give one, or 2",
        ),
        (
            ImportSettings(action_low=(1,), action_high=(1,)),
            ("push",),
            r"must lie below .* \[1\]",
        ),
        (
            ImportSettings(success="all", keep_instruction=True),
            ("push",),
            "has 0 instructions; exactly one is needed",
        ),
    ],
)
def test_what_cannot_be_known_is_asked_for(settings, tasks, message):
    source = minari_format.MinariSource(foreign(*cameras(), actions=[[1, 0], [0, -1]]))
    with pytest.raises(ValueError, match=message):
        importing.plan_import(source, replace(WORLD, tasks=tasks).resolve(), settings)


def test_views_and_state_that_have_other_names_are_asked_for():
    seen, space = cameras()
    seen["cams"]["wrist"] = seen["cams"].pop("hand")
    space["cams"].spaces["wrist"] = space["cams"].spaces.pop("hand")
    seen["legs"], space.spaces["legs"] = seen["arm"], space["arm"]
    source = minari_format.MinariSource(foreign(seen, space, [[1, 0], [0, -1]]))
    world = replace(WORLD, tasks=("push",))
    with pytest.raises(ValueError, match="are front, hand, and .*cams/wrist.* with --views"):
        importing.plan_import(source, world.resolve(), ImportSettings(success="all"))
    settings = ImportSettings(success="all", views=("cams/front", "cams/wrist"))
    with pytest.raises(
        ValueError, match=r"has 3 numbers, and .*legs \(2\): give the keys .* --state"
    ):
        importing.plan_import(source, world.resolve(), settings)
    planned = importing.plan_import(
        source, world.resolve(), replace(settings, state=("grip", "legs"))
    )
    assert planned.state == ("grip", "legs")


def test_actions_without_bounds_and_outside_of_them(tmp_path):
    dataset = foreign(*cameras(), actions=[[8, 0], [0, -1]], bounds=(-np.inf, np.inf))
    source = minari_format.MinariSource(dataset)
    world, all_solved = replace(WORLD, tasks=("push",)), ImportSettings(success="all")
    with pytest.raises(ValueError, match="no bounds.* --action-low and --action-high"):
        importing.plan_import(source, world.resolve(), all_solved)
    narrow = replace(all_solved, action_low=(-1.0,), action_high=(1.0,))
    planned = importing.plan_import(source, world.resolve(), narrow)
    with pytest.raises(ValueError, match=r"episode 0 of lab/arm-v0: actions range from \[0.0, -1"):
        importing.import_demos(source, planned, narrow, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert not list(tmp_path.glob(".back-*"))
    clipped = replace(narrow, clip_actions=True)
    (found,) = importing.import_demos(source, planned, clipped, tmp_path / "back").load()
    assert found.actions[0].tolist() == [1, 0]
    wide = replace(all_solved, action_low=(-10, -1), action_high=(10, 1))
    planned = importing.plan_import(source, world.resolve(), wide)
    (found,) = importing.import_demos(source, planned, wide, tmp_path / "wide").load()
    np.testing.assert_allclose(found.actions[:, 0], [0.8, 0])


def test_sentences_find_their_tasks(tmp_path):
    seen, space = cameras()
    dataset = foreign(seen, space, [[1, 0], [0, -1]])
    dataset.storage.update_episode_metadata([{"instruction": "Push  the puck."}])
    source = minari_format.MinariSource(dataset)
    planned = importing.plan_import(source, WORLD.resolve(), ImportSettings(success="all"))
    assert [spec.task.id for spec in planned.specs.values()] == ["push"]
    dataset.storage.update_episode_metadata([{"instruction": "shove"}])
    source = minari_format.MinariSource(dataset)
    with pytest.raises(ValueError, match="match no task: 'shove'.*--assign"):
        importing.plan_import(source, WORLD.resolve(), ImportSettings(success="all"))
    for pairs, message in (
        ({"shovel": "push"}, "did you mean 'shove'"),
        ({"shove": "pushed"}, "unknown task 'pushed'; did you mean 'push'"),
    ):
        with pytest.raises(ValueError, match=message):
            importing.plan_import(
                source, WORLD.resolve(), ImportSettings(success="all", assign=pairs)
            )
    planned = importing.plan_import(
        source, WORLD.resolve(), ImportSettings(success="all", assign={"shove": "pull"})
    )
    assert planned.specs[0].task.instruction == "pull the lever"
    one = replace(WORLD, tasks=("pull",))
    planned = importing.plan_import(
        source, one.resolve(), ImportSettings(success="all", keep_instruction=True)
    )
    assert planned.specs[0].task.instruction == planned.arena.world.instruction == "shove"


def test_episodes_beyond_the_horizon_and_other_robots_are_refused():
    source = minari_format.MinariSource(foreign(*cameras(), actions=[[1, 0], [0, -1]]))
    short = World("toys", ("push",), (1,))
    with pytest.raises(ValueError, match="2 steps, and the horizon of push is 1; add --max-steps"):
        importing.plan_import(source, short.resolve(), ImportSettings(success="all"))
    metaworld = World("metaworld", ("push-v3",), None)
    settings = ImportSettings(views=("cams/front", "cams/hand"), state=("arm", "arm"))
    with pytest.raises(ValueError, match="2 numbers, one of the suite metaworld has 4: .* another"):
        importing.plan_import(source, metaworld.resolve(), settings)
