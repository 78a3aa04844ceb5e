"""Worker processes: how many failures are too many, signals, and no orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from tests.rollout.helpers import assert_same
from vla_rl.envs import point_reach
from vla_rl.rollout.collector import RolloutConfig
from vla_rl.rollout.local_collector import LocalCollector
from vla_rl.rollout.play import PlaySettings
from vla_rl.rollout.worker_pool import Failures, WorkerFailed


def test_failures_are_few_by_the_call_and_by_the_share_of_all_jobs():
    def failing(count, jobs, start):
        failures = Failures(jobs=jobs)
        for number in range(count):
            if start:
                failures.begin()
            failures.count(WorkerFailed("oh", f"episode {number}"), before="another")
        return failures

    assert failing(3, jobs=1, start=False).total == 3
    assert failing(20, jobs=200, start=True).total == 20
    with pytest.raises(WorkerFailed, match="4 failures in 200 jobs, 4 of them just now"):
        failing(4, jobs=200, start=False)
    with pytest.raises(WorkerFailed, match="21 failures in 200 jobs, 1 of them just now"):
        failing(21, jobs=200, start=True)
    with pytest.raises(WorkerFailed, match="^oh$"):
        Failures(jobs=200).count(WorkerFailed("oh", "episode 0"), before="episode 0")


def test_signals_that_end_a_job_are_left_to_the_parent(reference):
    policy, specs, keys, played = reference
    with LocalCollector(
        "point_reach", point_reach.Settings(), RolloutConfig(workers=2), "cpu"
    ) as c:
        family = [psutil.Process(pid) for pid in c.pids]
        for process in {*family, *(p.parent() for p in family)}:  # the workers and the fork server
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
        assert_same(c.collect(policy, specs, keys, PlaySettings()).trajectories, played)
        c._pool.replace(0)  # which asks the fork server
        assert_same(c.collect(policy, specs, keys, PlaySettings()).trajectories, played)
    assert not any(process.is_running() for process in family)


def test_no_orphans_when_the_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            """
            import time
            from vla_rl.rollout.collector import RolloutConfig
            from vla_rl.rollout.local_collector import LocalCollector
            from vla_rl.envs import point_reach
            if __name__ == "__main__":
                config = RolloutConfig(workers=2)
                c = LocalCollector("point_reach", point_reach.Settings(), config, "cpu")
                print(*c.pids, flush=True)
                time.sleep(60)
            """
        )
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(psutil.pid_exists(pid) for pid in pids)
