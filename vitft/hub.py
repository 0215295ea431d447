"""One client of the Hugging Face hub: its caches, whether the network is allowed, one short question, a download.

Left to themselves the hub's libraries retry for 20 to 60 seconds before they admit that there is no network.
"""

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from vitft import machine

PATIENCE_S = 2.0
"""Seconds until a hub that says nothing counts as out of reach."""

T = TypeVar("T")


def caches() -> list[Path]:
    """Return the folders of downloads, the one that is written to first.

    That is vitft's own where VITFT_CACHE is set; the hub client's is looked in as well.
    """
    theirs = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or _home() / "hub"
    own = [machine.cache() / "hub"] if os.environ.get("VITFT_CACHE") else []
    return [*own, Path(theirs).expanduser()]


def datasets_cache() -> Path:
    """Return the folder in which the `datasets` library keeps what it built."""
    return Path(os.environ.get("HF_DATASETS_CACHE") or _home() / "datasets").expanduser()


def _home() -> Path:
    return Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")


def endpoint() -> str:
    """Return the hub's address."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def offline(*also: str) -> str:
    """Return the environment variable by which the user forbids the network: HF_HUB_OFFLINE or one of `also`; or ""."""
    names = ("HF_HUB_OFFLINE", *also)
    return next((name for name in names if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")), "")


def download(repository: str, file: str, revision: str = "", kind: str = "model") -> Path:
    """Bring one file into the first cache; `kind` is "model" or "dataset". Raises what the hub's library raises."""
    from huggingface_hub import hf_hub_download

    return Path(
        hf_hub_download(
            repository,
            file,
            repo_type=kind,
            revision=revision or None,
            cache_dir=caches()[0],
            endpoint=endpoint(),
            etag_timeout=5,
        )
    )


def upload(folder: Path, repository: str, message: str, *, public: bool) -> str:
    """Send a folder's files to a model page, made where there is none; return its address.

    Args:
        repository: ORG/NAME.
        message: of the commit.
        public: of a page that is made; one that is there stays as it is.

    Raises what the hub's library raises.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint())
    api.create_repo(repository, repo_type="model", private=not public, exist_ok=True)
    api.upload_folder(repo_id=repository, repo_type="model", folder_path=folder, commit_message=message)
    return f"{endpoint()}/{repository}"


def status(address: str) -> int:
    """Ask once for the head of a page; return its HTTP status, or 0 where nothing answers in time."""

    def ask() -> int:
        opener = urllib.request.build_opener(_Stay)
        try:
            with opener.open(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE_S) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    answer = within(PATIENCE_S, ask)
    return answer if isinstance(answer, int) else 0


def within(seconds: float, call: Callable[[], T]) -> T | Exception | None:
    """Return what `call` returns or raises, None when it takes longer.

    It runs in a thread that nobody waits for: looking up a name ignores every timeout.
    """
    result: list[T | Exception] = []

    def run() -> None:
        try:
            result.append(call())
        except Exception as error:  # handed to the caller
            result.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return result[0] if result else None


class _Stay(urllib.request.HTTPRedirectHandler):
    """Return a redirect instead of following it."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None
