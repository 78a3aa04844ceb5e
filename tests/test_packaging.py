"""The package that users install is the tree that contributors see."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_the_list_of_packages_is_the_tree():
    own = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "vla_rl").rglob("__init__.py")
        if not (path.parent / "..").samefile(ROOT) or path.parent.name == "vla_rl"
    }
    linked = {
        ".".join(("vla_rl", *path.parent.relative_to(ROOT).parts))
        for name in ("envs", "policies")
        for path in (ROOT / name).rglob("__init__.py")
    }
    on_disk = own | linked
    assert set(SETTINGS["packages"]) == on_disk


@pytest.mark.parametrize("name", ["envs", "policies"])
def test_the_links_lead_to_the_folders(name):
    link = ROOT / "vla_rl" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"
    assert link.resolve() == ROOT / name
    assert SETTINGS["package-dir"][f"vla_rl.{name}"] == name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            str(out),
            str(ROOT),
        ],
        check=True,
        capture_output=True,
    )
    return next(out.glob("*.whl"))


def test_the_wheel_holds_every_module_once_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    modules = {n for n in names if n.endswith(".py")}
    tracked = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    expected = {
        f"vla_rl/{n}" if n.startswith(("envs/", "policies/")) else n
        for n in tracked
        if n.startswith(("vla_rl/", "envs/", "policies/"))
    }
    assert expected <= modules
    assert not [n for n in names if n.startswith(("envs/", "policies/", "tests/", "benchmarks/"))]
    assert "vla_rl/py.typed" in names


def test_the_wheel_works_in_a_folder_with_its_own_envs(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    project = tmp_path / "project"
    for name in ("envs", "policies"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text("WHOSE = 'the user'\n")
    code = (
        "import envs, policies, vla_rl, vla_rl.envs.point_reach as p;"
        "print(envs.WHOSE, policies.WHOSE, vla_rl.__file__, len(p.tasks()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        env={**os.environ, "PYTHONPATH": f"{project}:{site}"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert str(site) in done.stdout
    assert "the user the user" in done.stdout


def test_env_side_modules_start_without_torch():
    modules = (
        "vla_rl.rollout.worker_pool, vla_rl.rollout.slots, vla_rl.envs.point_reach, "
        "vla_rl.curricula.frontier"
    )
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"
