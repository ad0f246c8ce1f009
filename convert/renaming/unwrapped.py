"""Removes wrappers around the modules of a block from names: `0.fn.fn.to_q` becomes `0.to_q`.

A wrapper adds the output of the module in it to its input, or applies a norm before that module.
"""

import re
from collections import defaultdict

from ..names import parts
from ..names.tensor_names import Table, matrices

LEAVES = {"weight", "bias", *re.findall(r"\w+", parts.NORM_WORDS)}
KINDS = {*parts.ATTENTION.split(), *parts.MLP.split()}
HEAD = "{head}"
Paths = dict[str, list[str]]  # name in the block -> the words of the new one


def unwrapped(block: Table, width: int) -> tuple[dict[str, str], dict[str, str]]:
    """The name of each tensor of a block without wrappers, and the module of each norm in one.

    The model has `width`.
    """
    paths = _grouped(_lifted({name: name.split(".") for name in block}), block)
    new: dict[str, str] = {}
    owners: dict[str, str] = {}
    for module, inside in _by_first(paths).items():
        inner, norm = _without_norm(_lifted(inside), block, width)
        new |= {name: ".".join([module, *words]) for name, words in inner.items()}
        for name, words in norm.items():
            own = f"norm_of_{module}"
            owners[own] = module
            new[name] = f"{own}.{words[-1]}"
    return (new, owners) if len({*new.values()}) == len(new) else ({n: n for n in block}, {})


def _by_first(paths: Paths) -> dict[str, Paths]:
    """`paths` grouped by their first word, each without it."""
    found: defaultdict[str, Paths] = defaultdict(dict)
    for name, (first, *rest) in paths.items():
        found[first][name] = rest
    return found


def _lifted(paths: Paths) -> Paths:
    """`paths` without outer modules that contain all of them, as long as other modules remain."""
    while len({words[0] for words in paths.values() if words}) == 1 and all(
        len(words) > 2 and words[1] != HEAD for words in paths.values()
    ):
        paths = {name: words[1:] for name, words in paths.items()}
    return paths


def _grouped(paths: Paths, block: Table) -> Paths:
    """`paths` with matrices in the block itself, such as `attn_in` and `attn_out`, in a module."""
    wide = [paths[name] for name in matrices(block) if len(paths[name]) == 2]
    firsts = [first for first, end, _ in (word.partition("_") for word, _ in wide) if end]
    new = {
        word: [first, rest]
        for word, _ in wide
        for first, _, rest in [word.partition("_")]
        if first in KINDS and firsts.count(first) > 1
    }
    return {name: [*new.get(words[0], words[:1]), *words[1:]] for name, words in paths.items()}


def _without_norm(paths: Paths, block: Table, width: int) -> tuple[Paths, Paths]:
    """The paths in a module, without those of its norm; and the paths of the norm, if it has
    exactly one."""
    modules = {first: own for first, own in _by_first(paths).items() if [] not in own.values()}
    norms = [first for first, own in modules.items() if _is_norm(own, block, width)]
    wide = [first for first, own in modules.items() if matrices({n: block[n] for n in own})]
    if len(norms) != 1 or not wide:
        return paths, {}
    norm = {name: words for name, words in paths.items() if words[0] == norms[0]}
    rest = {name: words for name, words in paths.items() if name not in norm}
    if len(wide) == 1:
        inner = {name: words[1:] if words[0] == wide[0] else words for name, words in rest.items()}
        of_torch = any(words == ["in_proj_weight"] for words in inner.values())
        if of_torch or all(len(words) > 1 for words in inner.values()):
            rest = _lifted(inner)
    return rest, norm


def _is_norm(paths: Paths, block: Table, width: int) -> bool:
    """Whether a module holds a scale of the model's `width`, perhaps a shift, and no more."""
    plain = all(len(words) == 1 and words[0] in LEAVES for words in paths.values())
    return plain and len(paths) < 3 and all(block[name] == (width,) for name in paths)
