"""An export on its way to the hub."""

import re
from pathlib import Path

from vitft import hub
from vitft.errors import UsageError, VitftError
from vitft.words import cause


def check(repository: str) -> None:
    """Refuse what can be told before anything is written. Raises UsageError."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repository) or len(repository) > 96:
        raise UsageError(f"--push '{repository}' names no page of the hub.", "ORG/NAME.")
    if by := hub.offline():
        raise UsageError(f"--push needs the network, which {by} forbids.", "", f"Unset {by}, or leave --push out.")


def push(folder: Path, repository: str, *, public: bool) -> str:
    """Send an export's files to a page of the hub; return its address.

    Raises:
        VitftError: the hub refuses, or cannot be reached; what was exported stays.
    """
    try:
        return hub.upload(folder, repository, "Exported by vitft", public=public)
    except Exception as error:  # the hub's library, its HTTP client, the network: all of their own kinds
        status = getattr(getattr(error, "response", None), "status_code", None)
        why = f"HTTP {status}" if status else cause(error, 120)
        raise VitftError(
            f"'{repository}' was not pushed: {why}.",
            fact=f"The files are in '{folder}'.",
            action="Log in with 'hf auth login' with a token that may write there, and run the same command with "
            "--overwrite.",
        ) from None
