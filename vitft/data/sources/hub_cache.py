"""Which data sets the caches of the hub's libraries hold, without importing either library."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

from vitft import hub, machine
from vitft.data.sources import parquet
from vitft.errors import UsageError
from vitft.results.files import writing

_COMMIT = re.compile(r"[0-9a-f]{40}$")
_NAME = re.compile(r"(?P<repo>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?(@(?P<revision>[\w./-]+))?$")


@dataclass(frozen=True)
class Repo:
    """Where the hub keeps a data set.

    Attributes:
        name: "ORG/NAME".
        config: folder of its tables; empty where there is one kind only.
        revision: branch, tag or commit; empty = main.
        formerly: the name it had, under which old caches hold it.
    """

    name: str
    config: str = ""
    revision: str = ""
    formerly: str = ""

    @property
    def command(self) -> str:
        """What fetches it by hand into the cache that is looked in."""
        pinned = f" --revision {self.revision}" if self.revision else ""
        return f"hf download {self.name} --repo-type dataset{pinned}"


def parse(text: str) -> Repo:
    """Read "hf:ORG/NAME[:CONFIG][@REVISION]". Raises UsageError (exit code 2) for anything else."""
    match = _NAME.match(text.removeprefix("hf:"))
    if match is None or ".." in text:
        raise UsageError(f"'{text}' names no data set of the hub.", "hf:ORG/NAME, hf:ORG/NAME@REVISION.")
    return Repo(match["repo"], match["config"] or "", match["revision"] or "")


def cached(repo: Repo) -> tuple[str, Path] | None:
    """Return (commit, folder) of what a cache holds: the pinned commit, else that of main, else the newest."""
    return _cached(repo) or (_cached(replace(repo, name=repo.formerly)) if repo.formerly else None)


def _cached(repo: Repo) -> tuple[str, Path] | None:
    for root in _roots(repo):
        wanted = repo.revision or "main"
        commit = wanted if _COMMIT.match(wanted) else _text(root / "refs" / wanted)
        folders = [root / "snapshots" / commit] if commit else []
        if not repo.revision:
            folders += _newest(root / "snapshots")
        for folder in folders:
            tables = parquet.Parquet(folder / repo.config if (folder / repo.config).is_dir() else folder, repo.name)
            if folder.is_dir() and parquet.detect(tables.path) and tables.splits:
                return folder.name, folder
    prepared = hub.datasets_cache() / repo.name.replace("/", "___")
    for folder in _newest(prepared, depth=3):  # config/version/commit
        config, commit = folder.parent.parent.name, folder.name if _COMMIT.match(folder.name) else ""
        right = repo.config in ("", "data", config) and repo.revision in ("", commit)
        if right and not folder.name.endswith(".incomplete") and parquet.detect(folder):
            return commit, folder
    return None


def snapshots(repo: Repo, commit: str) -> list[Path]:
    """Return where the files of a commit may lie: a folder of each cache, the one that is downloaded to first."""
    return [root / "snapshots" / commit for root in _roots(repo)]


def _roots(repo: Repo) -> list[Path]:
    return [cache / f"datasets--{repo.name.replace('/', '--')}" for cache in hub.caches()]


def listing(repo: Repo, commit: str) -> Path:
    config = f".{repo.config}" if repo.config else ""
    return machine.cache() / "hub" / f"{repo.name.replace('/', '--')}@{commit}{config}.json"


def remember(repo: Repo, commit: str, files: dict[str, list[str]]) -> None:
    """Keep the hub's list, so that a split that was not needed the first time is known to exist."""
    file = listing(repo, commit)
    try:
        with writing(file) as out:
            out.write(json.dumps(files).encode())
    except OSError:
        return  # a cache that cannot be written only costs a question to the hub


def _newest(root: Path, depth: int = 1) -> list[Path]:
    try:
        found = [folder for folder in root.glob("/".join("*" * depth)) if folder.is_dir()]
        return sorted(found, key=lambda folder: folder.stat().st_mtime, reverse=True)
    except OSError:
        return []


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
