"""Saved policies on the Hugging Face hub, by ``user/name``: download, safety checks, upload.

A repository is not trusted to run code. Only JSON, safetensors and tokenizer files are downloaded,
never pickles or Python. The modules that its JSON names (the class of the policy, its suite) are
imported only if they are part of ``vla_rl``, are plug-ins of an installed package, or were imported
or named by the user. A processor that requires custom code is rejected.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError

from vla_rl import __version__
from vla_rl.storage import pretrained
from vla_rl.storage.files import standing

WORLD = "world.json"
CARD = "README.md"
FILES = (
    *("config.json", WORLD, CARD, "model*.safetensors", pretrained.INDEX),
    *("*/*.json", "*/*.txt", "*/*.model", "*/*.jinja"),  # files of a backbone's processor
)
"""Patterns of the files of a policy's repository; nothing else is uploaded or downloaded."""

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_PLAIN = re.compile(r"[\w.-]+", re.ASCII)
# Without a connection huggingface_hub raises errors of the HTTP library that it uses (requests or
# httpx, depending on its version), which are the bases of its own.
_FAILURES: tuple[type[Exception], ...] = (OSError, *HfHubHTTPError.__bases__)


def find(source: str | Path, named: Collection[str | None] = (), **options: Any) -> Path:
    """Find the local folder of a saved policy; a policy on the hub is downloaded.

    An existing local path has priority. Otherwise ``user/name`` or ``user/name@revision`` is a
    repository. Anything else is returned unchanged, so that reading it reports what is missing.

    Args:
        source: A folder, or a repository.
        named: Suites that the user named, which the repository may then name, too.
        options: Options of ``huggingface_hub.snapshot_download``: ``revision``, ``token``,
            ``cache_dir``, ``force_download``, ``local_files_only``.

    Raises:
        ValueError: If the repository cannot be read, has no policy, or names a module that is not
            trusted (see above).
    """
    text = source.as_posix() if isinstance(source, Path) else source
    repo_id, at, revision = text.partition("@")
    here = standing(Path(source))
    if here.exists() or not _ID.fullmatch(repo_id):
        return here
    if at and options.get("revision") is not None:
        raise ValueError(f"{text} names a revision, and so does revision={options['revision']!r}")
    wanted = {"revision": revision or None, **options}
    with _explained(
        f"there is no folder {text} here, and the policy {text} could not be read from the "
        "Hugging Face hub",
        "check the name; a private repository needs a login (`hf auth login`) or HF_TOKEN",
    ):
        # The small description is downloaded first, because weights may be gigabytes.
        said = _snapshot(repo_id, ("config.json", WORLD), wanted)
        _vet(said, text, named)
        # A snapshot's folder is named after its commit, so the weights match this description.
        folder = _snapshot(repo_id, FILES, {**wanted, "revision": said.name})
    for path in folder.glob("*/*.json"):
        if "auto_map" in path.read_text(encoding="utf-8"):
            raise ValueError(
                f"{text} on the hub has a {path.parent.name} whose {path.name} requires custom "
                "code (auto_map), which vla-rl does not run"
            )
    return folder


def check_id(repo_id: str) -> None:
    """Check the name of a repository.

    Raises:
        ValueError: If it is not ``user/name``.
    """
    if not _ID.fullmatch(repo_id):
        raise ValueError(
            f"{repo_id!r} is not the name of a repository; give user/name (letters, digits, "
            "-, _ and .), for instance ada/drawer-open"
        )


def upload(folder: Path, repo_id: str, private: bool | None = None) -> str:
    """Create the repository if it is new, and upload a policy's files.

    Files of an earlier policy that this one does not have are deleted.

    Args:
        folder: Folder of a saved policy.
        repo_id: ``user/name``.
        private: Whether a new repository is private; ``None`` leaves it to the account's settings.

    Returns:
        The URL of the commit.

    Raises:
        ValueError: If the name is invalid or the upload fails; says what to do.
    """
    check_id(repo_id)
    api = huggingface_hub.HfApi(library_name="vla-rl", library_version=__version__)
    with refused(repo_id):
        made = api.create_repo(repo_id=repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            commit_message=f"A policy of vla-rl {__version__}",
            allow_patterns=list(FILES),
            delete_patterns=list(FILES),
        )
    return str(commit)


@contextlib.contextmanager
def refused(repo_id: str) -> Iterator[None]:
    """Turn failures of an upload to ``repo_id`` into a ``ValueError`` that says what to do."""
    advice = (
        "log in with a token that may write (`hf auth login`, or HF_TOKEN), and check that "
        f"{repo_id.partition('/')[0]!r} is you or an organization of yours"
    )
    with _explained(f"nothing could be uploaded to {repo_id} on the Hugging Face hub", advice):
        yield


# ----------------------------------------------------------------------------------------- helpers


def _snapshot(repo_id: str, patterns: Collection[str], options: dict[str, Any]) -> Path:
    return Path(
        huggingface_hub.snapshot_download(
            repo_id,
            allow_patterns=list(patterns),
            library_name="vla-rl",
            library_version=__version__,
            **options,
        )
    )


@contextlib.contextmanager
def _explained(what: str, advice: str) -> Iterator[None]:
    try:
        yield
    except _FAILURES as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        raise ValueError(f"{what} ({type(error).__name__}: {reason}); {advice}") from error


def _vet(folder: Path, source: str, named: Collection[str | None]) -> None:
    """Reject a description that names a module that is not trusted."""
    try:
        path = str(pretrained.describe(folder)["class"])
    except ValueError as error:
        raise ValueError(f"{source} on the hub is not a policy of vla-rl: {error}") from error
    module = path.rpartition(".")[0]
    if not _vouched("policies", module):
        raise ValueError(
            f"{source} on the hub is a {path}, and a repository may not import modules outside "
            f"vla_rl: if {module!r} is a module of yours, import it first (in Python), or "
            f"`hf download {source.partition('@')[0]} --local-dir FOLDER` and name the folder"
        )
    if (folder / WORLD).is_file():
        suite, harmless = _suite(folder / WORLD)
        base = suite.partition(":")[0]
        if suite not in named and not (harmless and _vouched("envs", base)):
            raise ValueError(
                f"{source} on the hub acts in {suite!r}, and a repository may not import modules "
                f"outside vla_rl: if you trust that suite, name it with --env {suite}"
            )


def _suite(path: Path) -> tuple[str, bool]:
    """The suite's name, and whether its parameter cannot cause any import.

    ``gym:package:ID`` and ``gym:package/ID`` import the package, and keyword arguments may hold
    such an id for an environment that wraps others.
    """
    try:
        data = json.loads(path.read_text())
        suite, arguments = str(data["suite"]), data["env"].get("kwargs")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    _, colon, parameter = suite.partition(":")
    return suite, not colon or (_PLAIN.fullmatch(parameter) is not None and not arguments)


def _vouched(kind: str, module: str) -> bool:
    """Whether the plug-in is part of vla-rl or an installed package, or is already imported."""
    if module in sys.modules:
        return True
    offered = importlib.metadata.entry_points(group=f"vla_rl.{kind}")
    if any(module in (point.name, point.module) for point in offered):
        return True
    name = module.removeprefix(f"vla_rl.{kind}.")
    return name.isidentifier() and importlib.util.find_spec(f"vla_rl.{kind}.{name}") is not None
