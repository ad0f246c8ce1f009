"""Gives parameters without a module of their own the names of a module's weight and bias.

`wq` and `bq` become `wq.weight` and `wq.bias`, `ln1_g` and `ln1_b` the weight and bias of `ln1`.
"""

import re
from collections import defaultdict

from ..names import attention_parts, modern_parts, parts
from ..names.tensor_names import Table, is_mask

# The last words of names that are usual, or of buffers.
USUAL = {
    *re.findall(r"\w+", parts.NORM_WORDS), "in_proj_weight", "in_proj_bias",
    *parts.HEAD_BIAS.split(), *parts.MASKS.split(),
    *(word.rpartition(".")[2] for words in (
        modern_parts.COS, modern_parts.SIN, modern_parts.FREQUENCIES, modern_parts.CIS,
        modern_parts.SLOPE_WORDS, attention_parts.CACHES,
    ) for word in words.split()),
}  # fmt: skip
HEAD = ".{head}"  # at the end of the name of one of a list of parameters
TABLES = {word.rpartition(".")[2] for word in parts.TABLE.split()}  # of positions
# Words for a weight and for a bias, as the first or the last word of a name.
WEIGHT, BIAS = "weights|weight|kernel|gamma|scale|w|g", "biases|bias|beta|shift|offset|b"
SHIFT = "beta|shift|offset"  # more likely the bias of a norm than of a matrix


def usual_leaves(table: Table, width: int) -> dict[str, str]:
    """The usual name for each of `table`, whose model has `width`."""
    of_heads = {name.removesuffix(HEAD): name for name in table if name.endswith(HEAD)}
    usual = _usual_leaves({n.removesuffix(HEAD): shape for n, shape in table.items()}, width)
    return {of_heads.get(n, n): _of_heads(u) if n in of_heads else u for n, u in usual.items()}


def _of_heads(name: str) -> str:
    """`name` of the weight or the bias of one of a list of modules, one for each head."""
    module, _, leaf = name.rpartition(".")
    return f"{module}{HEAD}.{leaf}"


def _usual_leaves(table: Table, width: int) -> dict[str, str]:
    modules: defaultdict[str, Table] = defaultdict(dict)
    for name, shape in table.items():
        modules[name.rpartition(".")[0]][name] = shape
    usual = {name: name for name in table}
    for module, tensors in modules.items():
        bare = {n: s for n, s in tensors.items() if _is_bare(n, s, width)}
        alone = module and not any(other.startswith(f"{module}.") for other in modules)
        if alone and bare and _is_one(list(tensors.values())):
            usual |= {n: f"{module}.{_leaf(n, s, len(tensors))}" for n, s in tensors.items()}
        else:
            usual |= _paired(bare)
    return usual


def _is_bare(name: str, shape: tuple[int, ...], width: int) -> bool:
    """Whether a tensor is a parameter under an unusual name, and no table of positions."""
    if name.rpartition(".")[2] in USUAL or is_mask(name, shape) or not shape:
        return False
    if "{layer" in name:
        return True
    if len(shape) == 1:
        return shape[0] == width
    return width in shape and name.rpartition(".")[2] not in TABLES


def _is_one(shapes: list[tuple[int, ...]]) -> bool:
    """Whether `shapes` are those of one matrix or scale, and perhaps of its bias."""
    return len(shapes) == 1 or (len(shapes) == 2 and min(map(len, shapes)) == 1)


def _leaf(name: str, shape: tuple[int, ...], count: int) -> str:
    """Whether `name`, one of `count` in its module, is the weight or the bias."""
    if len(shape) > 1 or count == 1:
        return "weight"
    return "bias" if re.fullmatch(rf"({BIAS}).*", name.rpartition(".")[2].lower()) else "weight"


def _paired(bare: Table) -> dict[str, str]:
    """The usual names for the `bare` parameters of a module that has several."""
    usual: dict[str, str] = {}
    # What remains of the name of a matrix, and of a scale -> its module.
    of_matrices: dict[str, str] = {}
    of_scales: dict[str, str] = {}
    for name, shape in sorted(bare.items(), key=lambda each: -len(each[1])):
        path, dot, leaf = name.rpartition(".")
        of_bias = _without(leaf, BIAS)
        modules = [of_matrices, of_scales]
        if re.match(SHIFT, leaf, re.IGNORECASE):
            modules.reverse()
        found = [known.get(f"{path}{dot}{of_bias}".lower()) for known in modules if of_bias]
        free = [each for each in found if each and f"{each}.bias" not in usual.values()]
        if free:  # b1 belongs to w1, and then beta1 to g1
            usual[name] = f"{free[0]}.bias"
        elif of_bias and len(shape) == 1:
            usual[name] = f"{path}{dot}{_norm(leaf, of_bias)}.bias"
        else:
            rest = _without(leaf, WEIGHT)
            module = f"{path}{dot}{_norm(leaf, rest) if rest else leaf}"
            usual[name] = f"{module}.weight"
            words = {f"{path}{dot}{word}".lower(): module for word in (leaf, rest) if word}
            (of_matrices if len(shape) > 1 else of_scales).update(words)
    return usual


def _without(leaf: str, marks: str) -> str:
    """`leaf` without a leading or trailing word of `marks`; "" if it has none."""
    match = re.fullmatch(rf"(?:{marks})_?(\w+)|(\w+)_(?:{marks})", leaf, re.IGNORECASE)
    return (match[1] or match[2]) if match else ""


def _norm(leaf: str, rest: str) -> str:
    """The module of the bare parameter `leaf`; `rest` is `leaf` without the word for weight or
    bias."""
    if leaf.startswith(rest):  # ln1_g
        return rest
    return f"norm{rest}" if re.match("gamma|beta|scale|shift|g|b", leaf, re.IGNORECASE) else leaf
