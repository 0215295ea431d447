"""Files of hub pages: the local caches first, then one short question, then a download or an error within 3 seconds."""

from pathlib import Path

from vitft import hub
from vitft.errors import CheckpointError


def locate(repository_id: str, names: tuple[str, ...], model: str) -> Path:
    """Return the first of these files of a hub page: from the local caches, else downloaded.

    Raises CheckpointError, within three seconds where the hub cannot be reached.
    """
    file = cached(repository_id, names)
    if file is not None:
        return file
    page, _, revision = repository_id.partition("@")
    looked = f"Looked in: {', '.join(str(place) for place in hub.caches())}; and at {hub.endpoint()}."
    fetch = f"On a machine with a network run 'vitft models fetch {model}', and copy the folder it names here."
    if forbidden := hub.offline():
        raise CheckpointError(
            f"'{model}' is not in the local caches, and {forbidden} is set.", fact=looked, action=fetch
        )
    for name in names:
        status = hub.status(f"{hub.endpoint()}/{page}/resolve/{revision or 'main'}/{name}")
        if status == 0:
            raise CheckpointError(
                f"'{model}' is not in the local caches and the hub cannot be reached.", fact=looked, action=fetch
            )
        if status == 404:
            continue
        try:
            # The library knows the user's token; the question was asked without.
            return hub.download(page, name, revision)
        except Exception as error:  # the library's own tree of network, disk and gate errors
            cause = " ".join(str(error).split())[:160]
            if status in (401, 403):
                raise CheckpointError(
                    f"The hub refuses '{page}' ({status}).",
                    "a public page, or one whose licence you have accepted, after 'hf auth login'.",
                    fetch,
                ) from None
            raise CheckpointError(f"'{model}' could not be fetched: {cause}.", fact=looked, action=fetch) from None
    raise CheckpointError(
        f"The hub page '{page}' holds none of {', '.join(names)}.", fact=looked, action="Check the name."
    )


def cached(repository_id: str, names: tuple[str, ...]) -> Path | None:
    """Return the first of these files of a hub page, ORG/NAME[@revision], that lies in a local cache."""
    from huggingface_hub import try_to_load_from_cache

    page, _, revision = repository_id.partition("@")
    for place in hub.caches():
        for name in names:
            file = try_to_load_from_cache(page, name, cache_dir=place, revision=revision or None)
            if isinstance(file, str):
                return Path(file)
    return None
