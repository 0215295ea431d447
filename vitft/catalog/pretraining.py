"""Which data a checkpoint was pretrained on, read from the tag of its timm name."""

import re

_SOURCES = (
    ("openai", "WIT-400M"),
    ("laion2b", "LAION-2B"),
    ("laion400m", "LAION-400M"),
    ("datacompxl", "DataComp-1B"),
    ("dfn", "DFN"),
    ("metaclip", "MetaCLIP"),
    ("webli", "WebLI"),
    ("lvd142m", "LVD-142M"),
    ("lvd1689m", "LVD-1689M"),
    ("sat493m", "SAT-493M"),
    ("merged2b", "Merged-2B"),
    ("in21k", "ImageNet-21k"),
    ("in22k", "ImageNet-21k"),
    ("in12k", "ImageNet-12k"),
)
_NO_LABELS = ("dino", "mae", "ijepa", "mocov3")


def pretraining(timm_name: str, from_scratch: bool = False) -> str:
    """Return e.g. "ImageNet-21k" or "ImageNet-21k then 1k"; "" where the name does not say.

    Args:
        timm_name: e.g. "vit_base_patch16_224.augreg_in21k_ft_in1k".
    """
    if from_scratch:
        return "none"
    tag = timm_name.partition(".")[2]
    first, *later = re.split(r"_ft_", tag)
    named = [name for name in (_data(part) for part in (first, *"_".join(later).split("_"))) if name]
    # "ImageNet-" once: "LAION-2B then ImageNet-12k then 1k".
    head, word, rest = " then ".join(dict.fromkeys(named)).partition("ImageNet-")
    return head + word + rest.replace(" then ImageNet-", " then ")


def _data(part: str) -> str:
    source = next((name for word, name in _SOURCES if word in part), "")
    if not source and re.search(r"(^|_)in1k(_|$)", part):
        return "ImageNet-1k"
    if not source and part in _NO_LABELS:
        return "ImageNet-1k, no labels"
    return source
