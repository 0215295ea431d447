"""Data sets of the Hugging Face hub: from its caches first, from the network when it answers within two seconds.

What was downloaded once is found again without a network, at the commit it was downloaded at; `@<commit>` pins another.
"""

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vitft import hub
from vitft.catalog import tasks
from vitft.data import official
from vitft.data.sources import imagenet, parquet
from vitft.data.sources.files import is_debris, is_image, refuse
from vitft.data.sources.hub_cache import Repo, cached, listing, remember, snapshots
from vitft.data.split import Split
from vitft.errors import DataDamaged, DataError, DataMissing
from vitft.results.files import cannot_write, full
from vitft.words import cause

_SPLITS = (("train", "train"), ("val", "val"), ("test", "test"))
# The tables called test have no labels: the world's ImageNet test set is the validation set.
_IMAGENET = (("train", "train"), ("val", "test"))


REPOS: dict[str, Repo] = {
    "cifar10": Repo("uoft-cs/cifar10", "plain_text", formerly="cifar10"),
    "cifar100": Repo("uoft-cs/cifar100", "cifar100", formerly="cifar100"),
    "oxford_iiit_pet": Repo("timm/oxford-iiit-pet", "data"),
    "oxford_flowers102": Repo("dpdl-benchmark/oxford_flowers102", "data"),
    "imagenet": Repo("ILSVRC/imagenet-1k", "data", formerly="imagenet-1k"),
}


@dataclass(frozen=True)
class Hub:
    """One data set of the hub, found in a cache or listed by the hub.

    Attributes:
        repo: see there.
        task: canonical name, or "ORG/NAME".
        commit: the commit it is at; empty where a cache does not say.
        folder: where a cache holds it, or None.
        files: split -> files that the hub lists and that `open` downloads; empty for one found in a cache.
    """

    repo: Repo
    task: str
    commit: str
    folder: Path | None
    files: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @cached_property
    def _take(self) -> tuple[tuple[str, str], ...]:
        return _IMAGENET if tasks.canonical(self.task) == "imagenet" else _SPLITS

    @property
    def splits(self) -> tuple[str, ...]:
        if self.folder is not None:
            return self._table(self.folder).splits
        listed = {name for name, _ in self.files}
        return tuple(out for name, out in self._take if name in listed)

    @property
    def place(self) -> Path | None:
        """Where its tables are, as far as they are here."""
        folders = [self.folder] if self.folder else snapshots(self.repo, self.commit)
        return next((self._table(folder).path for folder in folders if folder.is_dir()), None)

    def open(self, split: str) -> Split:
        """Open one split, downloading its files first where no cache holds them.

        Raises:
            DataMissing: no such split, or the download failed.
            DataDamaged: see `parquet`.
        """
        if split not in self.splits:
            raise DataMissing(f"'{self.repo.name}' has no split '{split}'; it has: {', '.join(self.splits)}.")
        folder = self.folder or self._download(split)
        opened = self._table(folder).open(split)
        wanted = tasks.get(self.task).num_classes if tasks.canonical(self.task) else opened.num_classes
        if opened.num_classes != wanted:
            raise DataDamaged(
                f"'{self.repo.name}' has {opened.num_classes} classes; {self.task} has {wanted}.",
                f"the classes of '{self.task}'.",
            )
        keys = [imagenet.official_name(key) for key in opened.keys] if split == "test" else opened.keys
        keys = keys if tasks.canonical(self.task) == "imagenet" else opened.keys
        known = self.task in REPOS
        why = official.shortfall(self.task, split, len(opened)) or ("" if known else "a data set of the hub")
        stamp = replace(opened.provenance, reference=not why, why=why)
        return replace(opened, keys=keys, provenance=stamp)

    def _table(self, folder: Path) -> parquet.Parquet:
        config = folder / self.repo.config
        path = config if self.repo.config and config.is_dir() else folder
        return parquet.Parquet(path, self.task, f"hub {self.repo.name}", self.commit, self._take)

    def _download(self, split: str) -> Path:
        """Bring the files of a split into the hub's cache and return the folder of its tables."""
        wanted = dict(self.files)[next(name for name, out in self._take if out == split)]
        places = snapshots(self.repo, self.commit)
        for folder in places:
            if all((folder / file).is_file() for file in wanted):
                return folder
        why = _no_network()
        if why or _ask(self.repo) is None:
            absent = next(file for file in wanted if not (places[0] / file).is_file())
            why = why or "the hub does not answer"
            raise DataMissing(
                f"'{absent}' of '{self.repo.name}' is not in '{places[0]}', and {why}.",
                "every file of the split there.",
                f"With a network, run: {self.repo.command}",
            )
        try:
            for file in wanted:
                hub.download(self.repo.name, file, self.commit, "dataset")
        except Exception as error:  # the library raises its own kinds for every answer of the server
            if full(error):
                where = str(hub.caches()[0])
                setting = "VITFT_CACHE" if len(hub.caches()) > 1 else "HF_HOME"
                raise cannot_write(where, error, f"Set {setting} to a larger disk.") from None
            raise _failed(self.repo, error) from None
        return places[0]


def task_of(repo: Repo) -> tuple[Repo, str]:
    """Return the repository and what its data set is called: a known task's name, or "ORG/NAME"."""
    for task, known in REPOS.items():
        if repo.name in (known.name, known.formerly):
            return replace(known, config=repo.config or known.config, revision=repo.revision), task
    return repo, repo.name


def find(repo: Repo, task: str) -> Hub | str:
    """Return the data set from a cache or as the hub lists it, or the reason why there is none.

    Raises:
        DataMissing: the hub answered, and has no such data set for us.
    """
    here = cached(repo)
    if here is not None:
        return _known(repo, task, here[0]) or Hub(repo, task, *here)
    places = ", ".join(f"'{place}'" for place in (*hub.caches(), hub.datasets_cache()))
    places = f"the Hugging Face caches ({places})"
    if why := _no_network():
        return f"{places}; {why}"
    answer = _ask(repo)
    if answer is None:
        return f"{places}; the hub does not answer"
    if isinstance(answer, Exception):
        raise _refused(repo, answer) from None
    names = [sibling.rfilename for sibling in answer.siblings or ()]
    files = _by_split([name for name in names if name.endswith(".parquet")], repo)
    if files and answer.sha:
        remember(repo, answer.sha, files)
        return Hub(repo, task, answer.sha, None, tuple((split, tuple(found)) for split, found in files.items()))
    _all_images(repo, names)
    return Hub(repo, task, answer.sha or "", _prepared(repo, answer.sha or ""))


def _all_images(repo: Repo, names: list[str]) -> None:
    """Raise DataDamaged where folders of images hold other files, which `datasets` would leave out silently."""
    parts = [name.rpartition("/") for name in names]
    folders = {folder for folder, _, name in parts if folder and is_image(name)}
    others = [(f, n) for f, _, n in parts if f in folders and not is_image(n) and not is_debris(n)]
    refuse(Path(repo.name), [f"{folder}/{name}" for folder, name in others])


def _known(repo: Repo, task: str, commit: str) -> Hub | None:
    try:
        files = json.loads(listing(repo, commit).read_text(encoding="utf-8"))
        return Hub(repo, task, commit, None, tuple((str(k), tuple(map(str, v))) for k, v in files.items()))
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def _by_split(names: list[str], repo: Repo) -> dict[str, list[str]]:
    """Group the tables that the hub lists by split. Raises DataError where it holds several configurations."""
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        *folders, file = name.split("/")
        split = parquet.split_of(parquet.SHARD.sub("", Path(file).stem))
        if split is None and folders:
            split = parquet.split_of(folders[-1])
            folders = folders[:-1] if split else folders
        groups["/".join(folders)][split or "train"].append(name)
    if repo.config in groups:
        return groups[repo.config]
    if repo.config and repo.config != "data":
        legal = ", ".join(sorted(groups)) or "none"
        raise DataError(f"'{repo.name}' has no configuration '{repo.config}'.", f"{legal}.")
    if len(groups) > 1 and "data" not in groups:
        raise DataError(
            f"'{repo.name}' has several configurations: {', '.join(sorted(groups))}.",
            "one of them.",
            f"Name it: hf:{repo.name}:{min(groups)}",
        )
    return groups.get("data") or next(iter(groups.values()), {})


def _prepared(repo: Repo, commit: str) -> Path:
    """Let `datasets` build what is kept in another form than tables; return the folder of its arrow files."""
    import datasets

    try:
        builder = datasets.load_dataset_builder(
            repo.name, repo.config or None, revision=commit or repo.revision or None
        )
        builder.download_and_prepare()
    except Exception as error:  # it raises whatever the network, the files or the server's answer raise
        raise _failed(repo, error) from None
    return Path(builder.cache_dir)


def _no_network() -> str:
    """Return the environment variable that forbids the network, "" where none does."""
    name = hub.offline("HF_DATASETS_OFFLINE")
    return f"{name} forbids the network" if name else ""


def _ask(repo: Repo) -> Any:
    """Ask the hub once. Returns its answer, its refusal as an exception, or None where it did not answer in time."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    def ask() -> Any:
        api = HfApi(endpoint=hub.endpoint())
        return api.dataset_info(repo.name, revision=repo.revision or None, timeout=hub.PATIENCE_S)

    answer = hub.within(hub.PATIENCE_S, ask)
    return answer if not isinstance(answer, Exception) or isinstance(answer, HfHubHTTPError) else None


def _refused(repo: Repo, error: Exception) -> DataMissing:
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if status in (401, 403) and type(error).__name__ == "GatedRepoError":
        return DataMissing(
            f"'{repo.name}' wants its terms accepted and a login.",
            "an account of the hub that accepted them on the page of the data set.",
            "Run 'hf auth login', or set HF_TOKEN.",
        )
    if status in (401, 403, 404):
        at = f" at '{repo.revision}'" if repo.revision else ""
        return DataMissing(f"The hub has no data set '{repo.name}'{at} that we may read.", "hf:ORG/NAME[@REVISION].")
    return _failed(repo, error)


def _failed(repo: Repo, error: Exception) -> DataMissing:
    return DataMissing(
        f"'{repo.name}' could not be fetched ({cause(error)}).",
        fact="What was fetched whole is kept.",
        action=f"Run the command again, or: {repo.command}",
    )
