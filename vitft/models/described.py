"""Everything known of a model without using the network: its checkpoint, its licence, the numbers it can be held to."""

from dataclasses import dataclass
from pathlib import Path

from vitft.catalog import published
from vitft.catalog.models import MODELS, ModelAlias
from vitft.catalog.published import Published
from vitft.models import names
from vitft.results.checkpoint import CheckpointInfo

ALIAS_KEYS = ("name", "timm", "title", "resolution", "patch_size", "normalisation", "licence", "params", "source")


@dataclass(frozen=True)
class Described:
    """One model.

    Attributes:
        alias: its entry in the catalogue, where it is called by one.
        file: where its weights lie in a local cache; None for a file, "" where a cache does not have them.
        published: rows measured with these very weights.
        notes: of the catalogue and of the checkpoint.
    """

    model: str
    alias: ModelAlias | None
    info: CheckpointInfo
    file: str | None
    published: tuple[Published, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON-able data, all but the published rows."""
        return {
            "model": self.model,
            **(alias_row(self.alias) if self.alias is not None else {}),
            "checkpoint": self.info.to_dict(),
            **({"cached": self.file} if self.file is not None else {}),
            "notes": list(self.notes),
        }


def alias_row(alias: ModelAlias) -> dict[str, object]:
    """Return a model's row in `vitft models ls`."""
    return {key: getattr(alias, key) for key in ALIAS_KEYS}


def describe(model: str) -> Described:
    """Describe an alias, a hub name or a file; only a file is read.

    Raises:
        UnknownName, CheckpointError: see `loading.load`.
    """
    names.check(model)
    alias = MODELS.get(model)
    remote = (alias is not None and alias.file is None) or model.startswith(("timm:", "hf-hub:", "hf_hub:"))
    if alias is not None:
        info = names.alias_info(alias)
    else:
        from vitft.models import loading

        info = loading.load(model, weights=not remote).info
    # A file that is only taken for a tag is not held to that tag's numbers.
    tag = info.timm_name if remote else ""
    return Described(
        model,
        alias,
        info,
        str(_cached(alias, info) or "") if remote else None,
        tuple(row for row in published.rows() if tag and tag in row.weights),
        (*(alias.note if alias is not None else ()), *info.notes),
    )


def _cached(alias: ModelAlias | None, info: CheckpointInfo) -> Path | None:
    if alias is not None:
        return names.alias_file(alias)
    from vitft.models import hub

    return hub.cached_tag(info.timm_name)
