"""The timm tag whose weights a file is taken for: the name of its shape, and the words that tell tags apart."""

import fnmatch
import re

import timm

from vitft.results.checkpoint import Size

_SYNONYMS = {"i21k": "in21k", "imagenet21k": "in21k", "imagenet2012": "in1k", "i1k": "in1k", "aug": "augreg"}
_DEFAULT_ORDER = ("augreg_in21k", "augreg_", "orig_", "fb_", "goog_", "lvd", "openai", "v2_webli")


def named(hint: str) -> str:
    """Return timm's model that a file is called by, the longest of the names in its own; "" where there is none."""
    return max((name for name in timm.list_models() if name in hint.lower()), key=len, default="")


def closest_tag(patterns: list[str], hint: str, classes: int, native: Size | None, half: bool) -> str:
    """Return the timm tag of these names that fits best: words of the file's name, head size, resolution."""
    tags = timm.list_pretrained()
    found = [tag for pattern in patterns for tag in tags if fnmatch.fnmatch(tag.split(".")[0], pattern)]
    words = {_SYNONYMS.get(word, word) for word in re.split(r"[^a-z0-9]+", hint.lower())}

    if half and "vit" in words:
        words.add("orig")  # the first releases are named ViT-B_16, AugReg's B_16-i21k-...

    def score(tag: str) -> tuple[float, ...]:
        cfg = timm.get_pretrained_cfg(tag)
        assert cfg is not None
        if tag.lower() in hint.lower():
            return (9.0,)
        own = set(re.split(r"[_.]", tag)) - {"vit", "base", "small", "large", "tiny", "huge", "patch16", "ft"}
        rank = next((i for i, word in enumerate(_DEFAULT_ORDER) if tag.split(".")[1].startswith(word)), 99)
        size = None if native is None else cfg.input_size[1:] == native
        return (0.0, len(own & words), cfg.num_classes == classes, bool(size), -rank)

    if half:
        found = [tag for tag in found if (cfg := timm.get_pretrained_cfg(tag)) and cfg.mean == (0.5, 0.5, 0.5)]
    return max(found, key=score, default="")
