"""Files of hub pages: the local caches first, then one short probe, then a download or an error within three seconds.

Left alone the hub's client retries for up to a minute before it admits that there is no network.
"""

import os
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from vitft import machine
from vitft.errors import CheckpointError

PROBE_SECONDS = 2.0


def locate(repository_id: str, names: tuple[str, ...], asked: str) -> Path:
    """Return the first of these files of a hub page: from the local caches, else downloaded.

    Raises CheckpointError, within three seconds where the hub cannot be reached.
    """
    found = cached(repository_id, names)
    if found is not None:
        return found
    from huggingface_hub import hf_hub_download

    page, _, revision = repository_id.partition("@")
    places = caches()
    looked = f"Looked in: {', '.join(str(place) for place in places)}; and at {endpoint()}."
    fetch = f"On a machine with a network run 'vitft models fetch {asked}', and copy the folder it names here."
    if offline():
        raise CheckpointError(f"'{asked}' is not in the local caches, and HF_HUB_OFFLINE is set.", looked, fetch)
    for name in names:
        status = probe(f"{endpoint()}/{page}/resolve/{revision or 'main'}/{name}")
        if status == 0:
            raise CheckpointError(f"'{asked}' is not in the local caches and the hub cannot be reached.", looked, fetch)
        if status == 404:
            continue
        try:
            # The client knows the user's token; the probe asked without.
            return Path(hf_hub_download(page, name, cache_dir=places[0], revision=revision or None, etag_timeout=5))
        except Exception as error:  # the client's own tree of network, disk and gate errors
            cause = " ".join(str(error).split())[:160]
            if status in (401, 403):
                raise CheckpointError(
                    f"The hub refuses '{page}' ({status}).",
                    "Legal: a public page, or one whose licence you have accepted, after 'hf auth login'.",
                    fetch,
                ) from None
            raise CheckpointError(f"'{asked}' could not be fetched: {cause}.", looked, fetch) from None
    raise CheckpointError(f"The hub page '{page}' holds none of {', '.join(names)}.", looked, "Check the name.")


def cached(repository_id: str, names: tuple[str, ...]) -> Path | None:
    """Return the first of these files of a hub page, ORG/NAME[@revision], that lies in a local cache."""
    from huggingface_hub import try_to_load_from_cache

    page, _, revision = repository_id.partition("@")
    for place in caches():
        for name in names:
            found = try_to_load_from_cache(page, name, cache_dir=place, revision=revision or None)
            if isinstance(found, str):
                return Path(found)
    return None


def caches() -> list[Path]:
    """Return the folders of downloads: vitft's own where VITFT_CACHE is set, then the hub client's."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    theirs = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    return [machine.cache() / "hub", theirs] if os.environ.get("VITFT_CACHE") else [theirs]


def endpoint() -> str:
    """Return the hub's address."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def offline() -> bool:
    """Tell whether the user forbade the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")


def probe(address: str, seconds: float = PROBE_SECONDS) -> int:
    """Ask once for the head of a page; return its HTTP status, or 0 where nothing answers in time.

    The question runs in a thread of its own: looking up a name ignores every timeout.
    """
    answer = [0]

    def ask() -> None:
        opener = urllib.request.build_opener(_Stay)
        try:
            with opener.open(urllib.request.Request(address, method="HEAD"), timeout=seconds) as response:
                answer[0] = response.status
        except urllib.error.HTTPError as error:
            answer[0] = error.code
        except (OSError, ValueError):
            answer[0] = 0

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0]


class _Stay(urllib.request.HTTPRedirectHandler):
    """Take a redirect for an answer."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None
