"""The README's table of collections, as it follows from them."""

import re

from vitft.catalog import tasks
from vitft.prepare import collections
from vitft.words import size


def readme_table() -> str:
    """Return the README's table of the 16 collections as markdown."""
    lines = ["| collection | tasks | to fetch | licence | how | what to do |", "|---|---|---|---|---|---|"]
    for collection in collections.VTAB:
        names = ", ".join(f"`{task.name}`" for task in tasks.VTAB if task.collection == collection.name)
        first = names.split(", ")[0].strip("`")
        manual = "; ".join(file.manual for file in collection.files if file.manual)
        how = "automatic" if collection.automatic else "manual"
        what = f"`vitft data prepare {first}`"
        if not collection.automatic:
            what = f"{manual}; then {what[:-1]} --source DIR`"
        elif manual:
            what += f"; {manual}"
        if collection.opencv:
            what += "; needs `vitft[opencv]`"
        title = f"[{collection.title}]({collection.page})"
        download = size(collection.size) if collection.size else "see the owner's page"
        lines.append(f"| {title} | {names} | {download} | {collection.licence} | {how} | {what} |")
    return re.sub(r"(https://1drv\S+?)([),])", r"<\1>\2", "\n".join(lines)) + "\n"
