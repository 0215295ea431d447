"""Find the networks among the tensors of a file, and choose the one to use: never in silence, never at random."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitft.errors import CheckpointError, some
from vitft.models import pickles
from vitft.models.renaming import ANCHORS

# What wrappers put into names: compiled, sharded and checkpointed modules.
_WRAPPERS = re.compile(r"(^|\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)(?=\.)")
_AVERAGED = r"(.*[^a-z])?(ema|swa|avg|averaged?)([^a-z].*)?"
# (which is used, which is not, why): words between the dots of a network's place in its file. Each is its owner's.
_RULES = (
    (r"teacher.*", r"student.*", "the teacher is what its authors release and evaluate"),
    (r"target_encoder", r"(context_)?encoder", "the target encoder is what I-JEPA evaluates"),
    (r"base_encoder|encoder_q", r"momentum_encoder|encoder_k", "the trained encoder is what MoCo evaluates"),
    (r"online(_.*)?", r"target(_.*)?", "the online network is what BYOL evaluates"),
    (r"backbone", r"(momentum_backbone|backbone_momentum)", "the trained backbone is what is evaluated"),
    (_AVERAGED, r"", "averaged weights are taken, as timm does"),
)
# The classifiers of the transformers library stand beside the network they read.
_BESIDE = re.compile(r"(cls_|distillation_)?classifier\.(weight|bias)")


@dataclass(frozen=True, eq=False)
class Chosen:
    """One network of a file.

    Attributes:
        state: the file's names without what comes before the network's own.
        part: its place in the file, e.g. "model.teacher.backbone"; "" for a file that is that network alone.
        notes: what was chosen among, and why.
    """

    state: Mapping[str, Tensor]
    part: str = ""
    notes: tuple[str, ...] = ()


def choose(tree: Any, path: Path, word: str = "", expected: Sequence[str] = ()) -> Chosen:
    """Return the network of a file's containers.

    Args:
        tree: nested containers with tensors in them, as read.
        path: for messages.
        word: what the user named after the path: a key, or several with dots between.
        expected: names of tensors that the network should have, where a config tells it.

    Raises:
        CheckpointError: none there, several that no rule tells apart, or none at the place named.
        CheckpointUnsafe: a whole network instead of its tensors.
    """
    flats = list(_flats(tree))
    found = [one for place, flat in flats for one in _networks(place, flat, expected)]
    if not found:
        if network := pickles.network_in(tree):
            raise pickles.refusal(path, network)
        found = [Chosen(flat, place) for place, flat in flats]  # of no kind known here: the largest is told of
        found = sorted(found, key=lambda one: len(one.state))[-1:]
    if not found:
        raise CheckpointError(f"'{path}' holds no tensors.", fact=f"Its own keys: {_keys(tree)}.")
    left = _named(found, word) if word else found
    if not left:
        raise CheckpointError(
            f"'{path}' has no network '{word}'.",
            f"{', '.join(f'{path}::{one.part}' for one in found if one.part) or 'the path alone'}.",
            f"Its own keys: {_keys(tree)}.",
        )
    why = "as asked" if word and len(left) < len(found) else ""
    for used, other, reason in _RULES:
        kept = [one for one in left if _has(one, used)]
        rest = [one for one in left if one not in kept and (not other or _has(one, other))]
        if kept and rest:
            left, why = [one for one in left if one not in rest], reason
    if any(not _equal(left[0].state, one.state) for one in left[1:]):
        raise CheckpointError(
            f"'{path}' holds {len(left)} networks, and nothing tells which is meant.",
            f"{' or '.join(f'{path}::{one.part}' for one in left[:4])}.",
            f"Its own keys: {_keys(tree)}.",
        )
    best = left[0]
    whole = [
        name for name, t in best.state.items() if name.endswith((".weight", ".bias")) and not t.is_floating_point()
    ]
    if whole:
        raise CheckpointError(
            f"'{path}' holds quantised weights: '{whole[0]}' is of {str(best.state[whole[0]].dtype)[6:]}.",
            "weights in floating point.",
            "Save the network before it is quantised, or dequantised.",
        )
    if len(found) == 1 or not why:
        return best
    others = [one.part for one in found if one is not best]
    taken = f"'{best.part}'" if best.part else "the tensors without a prefix"
    named = next((f" (that one: {path.name}::{_short(part, best.part)})" for part in others if part), "")
    beside = "', '".join(part or "no prefix" for part in others)
    note = f"of the networks in {path.name} {taken} is used, not '{beside}': {why}{named}"
    return replace(best, notes=(note, *best.notes))


def _flats(tree: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the tensors of every container that has some of its own, with its place."""
    for place, items in pickles.containers(tree):
        own = {_WRAPPERS.sub("", name).removeprefix("."): tensor for name, tensor in pickles.tensors(items)}
        if own and not any(word.startswith("optim") for word in place.lower().split(".")):
            yield place, own


def _networks(place: str, flat: dict[str, Tensor], expected: Sequence[str]) -> Iterator[Chosen]:
    """Yield the networks of one container of tensors: one for each beginning that its names have before an anchor."""
    telling = [name for name in expected if name.count(".") > 1] or expected
    for anchors in (telling[:1], ANCHORS):
        starts = {
            name.removesuffix(anchor)
            for anchor in anchors
            for name in flat
            if name == anchor or name.endswith(f".{anchor}")
        }
        # A hybrid's own ResNet is part of its patch embedding.
        starts = {one for one in starts if not re.search(r"(^|\.)patch_embed\.backbone\.$", one)}
        if starts:
            break
    for start in sorted(starts):
        inner = tuple(other for other in starts if other != start and other.startswith(start))
        state = {
            name[len(start) :]: tensor
            for name, tensor in flat.items()
            if name.startswith(start) and not (inner and name.startswith(inner))
        }
        outer = start[: start.rstrip(".").rfind(".") + 1]
        beside = {name[len(outer) :]: tensor for name, tensor in flat.items() if name.startswith(outer)}
        heads = {name: tensor for name, tensor in beside.items() if start and _BESIDE.fullmatch(name)}
        unused = [n for n, t in beside.items() if not f"{outer}{n}".startswith(tuple(starts)) and t.numel() > 1]
        words = dict.fromkeys(name.split(".")[0] for name in unused if name not in heads)
        note = f"not used, as beside the network: {some(list(words), 6)}"
        part = ".".join(part for part in (place, start.rstrip(".")) if part)
        yield Chosen(state | heads, part, (note,) if words else ())


def _words(part: str) -> list[str]:
    return [word for word in part.split(".") if word != "module"]


def _has(one: Chosen, pattern: str) -> bool:
    words = (re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word).lower() for word in _words(one.part))
    return any(re.fullmatch(pattern, word) for word in words)


def _named(found: list[Chosen], word: str) -> list[Chosen]:
    """Return the networks at a place: exactly there, else below it, else with its words anywhere."""
    inside = f".{'.'.join(_words(word))}."
    exact = [one for one in found if one.part == word]
    below = [one for one in found if f".{'.'.join(_words(one.part))}.".startswith(inside)]
    return exact or below or [one for one in found if inside in f".{'.'.join(_words(one.part))}."]


def _short(part: str, beside: str) -> str:
    """Return the first word of a place that another lacks."""
    return next((word for word in _words(part) if word not in _words(beside)), part)


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _keys(tree: Any) -> str:
    keys = [f"'{key}'" for key in tree] if isinstance(tree, Mapping) else []
    return some(keys, 12) or "none"
