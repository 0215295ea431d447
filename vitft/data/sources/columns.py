"""Which columns of a table are the image and the label: found by name, never guessed."""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from vitft.errors import DataDamaged

_IMAGES = ("image", "img")
_LABELS = ("label", "labels", "fine_label")


@dataclass(frozen=True)
class Columns:
    """The columns of one table.

    Attributes:
        image, label: names of the columns.
        has_path: the image column is a struct with a `path` beside the `bytes`.
        names: class names of the label from the Hugging Face metadata, or None.
    """

    image: str
    label: str
    has_path: bool
    names: tuple[str, ...] | None


def find_columns(schema: pa.Schema, file: Path) -> Columns:
    """Choose the columns of a table. Raises DataDamaged (exit code 3) where there are none or several of a kind."""
    image = _only("image", _IMAGES, schema, file)
    label = _only("label", _LABELS, schema, file)
    kind = schema.field(image).type
    struct = pa.types.is_struct(kind)
    fields = {kind.field(i).name for i in range(kind.num_fields)} if struct else set()
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or (struct and "bytes" in fields)):
        raise DataDamaged(
            f"Column '{image}' of '{file}' is {kind}.",
            "encoded images (JPEG, PNG, ...) as binary, or as struct<bytes: binary, path: string>.",
        )
    values = schema.field(label).type
    if pa.types.is_dictionary(values):
        values = values.value_type
    if not (pa.types.is_integer(values) or pa.types.is_string(values) or pa.types.is_large_string(values)):
        raise DataDamaged(f"Column '{label}' of '{file}' is {values}.", "integers 0 to K-1, or class names.")
    return Columns(image, label, "path" in fields, stated_names(schema, label))


def _only(what: str, legal: tuple[str, ...], schema: pa.Schema, file: Path) -> str:
    present = [name for name in legal if name in schema.names]
    if len(present) == 1:
        return present[0]
    if present:
        raise DataDamaged(
            f"'{file}' has several {what} columns: {', '.join(present)}.",
            f"exactly one of {', '.join(legal)}.",
            "Remove or rename the others.",
        )
    shown = ", ".join(schema.names[:12]) + (", ..." if len(schema.names) > 12 else "")
    raise DataDamaged(f"'{file}' has no {what} column; its columns: {shown}.", f"one of {', '.join(legal)}.")


def stated_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """Return the names of a ClassLabel feature in the `huggingface` metadata."""
    try:
        stored = json.loads((schema.metadata or {})[b"huggingface"])
        feature = stored["info"]["features"][label]
        names = feature["names"]
    except (KeyError, ValueError, TypeError):
        return None
    if isinstance(names, dict):  # older releases wrote {"0": "cat", "1": "dog"}
        names = [names[str(i)] for i in range(len(names))]
    return tuple(str(name) for name in names) if isinstance(names, list) and names else None
