"""Recognises rotary tables, ALiBi's slopes and norms of queries and keys in an unknown class.

The words in their names suffice for that, as they do in a known class.
"""

from collections.abc import Iterator

from ..names import modern_parts, norm_parts
from ..names.tensor_names import Table
from ..rows.kinds import SLOPES, Kind, row, table

WORDS = {
    "cos": {*modern_parts.COS.split()},
    "sin": {*modern_parts.SIN.split()},
    "frequencies": {*modern_parts.FREQUENCIES.split()},
    "cis": {*modern_parts.CIS.split()},
    SLOPES: {word.rpartition(".")[2] for word in modern_parts.SLOPE_WORDS.split()},
}
PARTS = {"q_norm": {*norm_parts.QUERY_NORM.split()}, "k_norm": {*norm_parts.KEY_NORM.split()}}


def rows_by_words(names: Table) -> dict[str, Kind]:
    """The row of each of `names` whose words show what it is; they have {layer} for a number."""
    return dict(_tables(names)) | _qk_norms(names)


def _tables(names: Table) -> Iterator[tuple[str, Kind]]:
    """Yield the rows of rotary tables and slopes, with their names."""
    for name, shape in names.items():
        word = name.rpartition(".")[2]
        long = [length for length in shape if length > 1]
        for form, words in WORDS.items():
            axes = {"frequencies": ["w"], SLOPES: ["head"]}.get(form, ["u", "r"])
            if form == "cis" and len(shape) == 3 and shape[-1] == 2:
                form, axes = "pairs", ["u", "r", "two"]
            if word in words and len(long) == len(axes):
                left = iter(axes)
                dims = " ".join(next(left) if length > 1 else "()" for length in shape)
                yield name, table(f"{name} : {dims}", form)
                break


def _qk_norms(names: Table) -> dict[str, Kind]:
    """The rows of norms of each head's queries and keys; none if one of the two has none."""
    found: dict[str, dict[str, Kind]] = {part: {} for part in PARTS}
    for name, shape in names.items():
        module, _, leaf = name.rpartition(".")
        for part, words in PARTS.items():
            if "{layer}" in name and len(shape) == 1 and module.rpartition(".")[2] in words:
                own = "bias" if leaf in ("bias", "beta") else "scale"
                flax = f"blocks/attn/{part}/{own} : layer k"
                found[part][name] = row(flax, f"{name} : k")
    query, key = found.values()
    return query | key if len(query) == len(key) else {}
