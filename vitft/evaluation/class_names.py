"""The same class by different names: a hub page's 'tench, Tinca tinca' is ImageNet's n01440764."""

import re
from functools import cache

_SAME = 0.9  # of a head's names that must mean the task's classes, one by one, for the rest to be other spellings


def translated(names: tuple[str, ...], classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return a head's class names in a task's own words, where they mean the same; the others as they are.

    Args:
        names: of the head's outputs.
        classes: of the task, in its order; ImageNet's are WordNet ids.
    """
    if names == classes or not names:
        return names
    meant = [_words(name) for name in classes]
    owner: dict[str, set[str]] = {}
    for name, words in zip(classes, meant, strict=True):
        for word in words:
            owner.setdefault(word, set()).add(name)
    out = []
    for i, name in enumerate(names):
        word = _normal_form(name)
        if i < len(classes) and word in meant[i]:  # two cranes, two maillots: the place decides
            out.append(classes[i])
        else:
            found = owner.get(word, set())
            out.append(next(iter(found)) if len(found) == 1 else name)
    same = sum(a == b for a, b in zip(out, classes, strict=False))
    if len(names) == len(classes) and classes[0] in _wordnet() and same >= _SAME * len(classes):
        known = set(classes)
        return tuple(a if a in known else b for a, b in zip(out, classes, strict=True))
    return tuple(out)


def _words(name: str) -> set[str]:
    """Return the spellings that mean a class: its name, and a WordNet id's description and first word."""
    description = _wordnet().get(name, "")
    spellings = [name, description, description.split(",")[0]] if description else [name]
    return set(map(_normal_form, spellings))


def _normal_form(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


@cache
def _wordnet() -> dict[str, str]:
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return {info.index_to_label_name(i): info.index_to_description(i) for i in range(info.num_classes())}
