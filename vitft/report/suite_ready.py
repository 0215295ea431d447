"""The table before a suite: every data set, whether it is there, and where, or what to do."""

from collections.abc import Iterable
from dataclasses import dataclass

from vitft.prepare import inventory
from vitft.report.table import Column, Row, Table
from vitft.words import size


@dataclass(frozen=True)
class Entry:
    """A data set of a suite; `why` it cannot be used, "" where it can."""

    row: inventory.Row
    group: str
    why: str


def table(title: str, entries: Iterable[Entry], looked: str) -> Table:
    """Return the table; `looked` says where was looked."""
    columns = [Column(key, key) for key in ("task", "group", "data", "size")]
    columns.append(Column("where", "where, or what to do", "path"))
    found = list(entries)
    rows = [
        Row({
            "task": one.row.task, "group": one.group, "size": size(one.row.size) if one.row.size else "",
            "data": (one.why or one.row.status).removeprefix("no data: "), "where": one.row.where,
        })
        for one in found
    ]  # fmt: skip
    ready = sum(not one.why for one in found)
    return Table(f"{title}: {ready} of {len(found)} tasks ready. {looked}", tuple(columns), tuple(rows))
