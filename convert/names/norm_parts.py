"""Names that classes give to the norms of queries and keys, and to those after parts of a block.

The variants of families with such norms are made from them.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..rows.dialect import Dialect
from ..rows.kinds import Row, norm, optional, row
from . import parts
from .modern_parts import with_gated, with_variants

QUERY_NORM, KEY_NORM = (
    " ".join(words.replace("?", letter).replace("*", word) for words in (
        "?_norm ?_ln norm_? ln_? *_norm ?_layernorm ?_rmsnorm ?_rms rms_? norm_* ?norm ln_* *_ln",
    ))
    for letter, word in (("q", "query"), ("k", "key"))
)  # fmt: skip


def _placed(place: str, modules: str, more: str = "") -> str:
    """The words of a norm in `place` of one of `modules`: `pre_attn_norm`, and `more`."""
    norms = "norm layernorm layer_norm ln rmsnorm rms_norm"
    pairs = list(itertools.product(modules.split(), norms.split()))
    words = [f"{place}_{module}_{norm}" for module, norm in pairs]
    return " ".join([*words, *(f"{module}_{place}_{norm}" for module, norm in pairs), more]).strip()


OF_ATTENTION, OF_MLP = "attn attention self_attn att", "ffn mlp ff feedforward feed_forward ffwd"
BEFORE = (
    ("blocks/norm1", _placed("pre", OF_ATTENTION, "input_layernorm input_norm attn_norm norm1")),
    ("blocks/norm2", _placed("pre", OF_MLP, "ffn_norm mlp_norm norm2")),
)
AFTER = (_placed("post", OF_ATTENTION), _placed("post", OF_MLP))
# The norms of queries and keys, over all heads or of each: name, Flax axes and torch axes.
WIDE = (("q_norm", "kv group k", "(head k)"), ("k_norm", "kv () k", "(kv k)"))
NARROW = (("q_norm", "k", "k"), ("k_norm", "k", "k"))


def with_norms(plain: Dialect, attention: Mapping[str, str], blocks: str, module: str) -> Dialect:
    """The family `plain` with variants for gated MLPs and optional norms of queries and keys.

    `attention` has the modules of attention by their Flax paths. The variants with norms over all
    heads come first, or a norm as wide as all queries would be taken for that of one wide head.
    """
    first, second = (
        with_gated(_with_norms(plain, attention, each), blocks, module) for each in (WIDE, NARROW)
    )
    return with_variants(first, [second])


def with_all_norms(
    plain: Dialect, attention: Mapping[str, str], blocks: str, module: str
) -> Dialect:
    """The variants of `with_norms`, and those with norms after the parts of a block.

    A block has these in addition to norms before the parts, or instead of them.
    """
    both = [*BEFORE, *zip(("blocks/out_norm1", "blocks/out_norm2"), AFTER, strict=True)]
    after = list(zip(("blocks/norm1", "blocks/norm2"), AFTER, strict=True))
    one, two = (_normed(plain, blocks, norms) for norms in (both, after))
    two = replace(two, unsaid={**two.unsaid, "norm": "output"})
    first, *others = (with_norms(each, attention, blocks, module) for each in (plain, one, two))
    return with_variants(first, others)


def _normed(plain: Dialect, blocks: str, norms: Sequence[tuple[str, str]]) -> Dialect:
    """The family `plain` with other norms in its blocks: the Flax path and the words of each."""
    own = ("blocks/norm1/", "blocks/norm2/")
    rows = [
        each
        for each in plain.rows
        if not (isinstance(each, Row) and each.flax.name.startswith(own))
    ]
    for flax, words in norms:
        inside = f"{blocks}.{parts.choice(words, words.split()[0])}"
        rows += norm(flax, inside, "?", parts.NORM_WORDS)
    return replace(plain, rows=tuple(rows))


def _with_norms(
    plain: Dialect, attention: Mapping[str, str], norms: Sequence[tuple[str, str, str]]
) -> Dialect:
    """The family `plain` with the rows of `norms` after those of queries, keys and values."""
    rows = plain.rows
    for flax, inside in attention.items():
        is_qkv = [
            isinstance(each, Row) and each.flax.name.startswith(f"{flax}/qkv/") for each in rows
        ]
        end = len(is_qkv) - is_qkv[::-1].index(True)
        rows = (*rows[:end], *_norms(flax, inside, norms), *rows[end:])
    return replace(plain, rows=rows)


def _norms(flax: str, inside: str, norms: Sequence[tuple[str, str, str]]) -> tuple[Row, ...]:
    """The rows of `norms` of the attention at `flax`, which is the module `inside`."""
    words = {"q_norm": QUERY_NORM, "k_norm": KEY_NORM}
    leaves = zip(("scale", "bias"), parts.NORM_WORDS.split(), strict=True)
    rows = [
        row(
            f"{flax}/{name}/{leaf} : layer {axes}",
            f"{inside}{parts.choice(words[name], name)}.{word} : {dims}",
        )
        for leaf, word in leaves
        for name, axes, dims in norms
    ]
    return optional(rows)
