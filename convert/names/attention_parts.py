"""Names that classes give to the matrices of attention, and rows for each way to store them."""

from collections.abc import Callable

from ..rows.kinds import Buffer, Row, ignored, linear, mask, optional, row
from . import parts
from .parts import choice

FUSED = (
    "qkv qkv_proj c_attn in_proj to_qkv Wqkv qkv_linear query_key_value W_qkv w_qkv attn "
    "qkv_projection qkv_layer wqkv qkv_proj_layer attn_qkv in_projection"
)
# One matrix for queries, beside one for keys and values together.
QUERY = (
    "q_proj query q to_q q_layer wq w_q W_q q_linear query_proj q_attn query_layer Wq c_q W_query "
    "queries to_queries query_projection linear_q q_lin fc_q lin_q query_linear q_projection"
)
KEY_VALUE = (
    "kv_proj kv to_kv kv_layer wkv w_kv W_kv kv_linear key_value Wkv kv_projection c_kv kv_attn "
    "key_value_proj keys_values to_keys_values key_value_projection linear_kv kv_lin fc_kv lin_kv "
    "key_value_linear key_value_layer kv_projs"
)
QKV = (
    "query key value", "q k v", "query_layer key_layer value_layer", "query_gen key_gen value_gen",
    "wq wk wv", "get_queries get_keys get_values", "queries keys values", "q_proj k_proj v_proj",
    "query_proj key_proj value_proj", "W_query W_key W_value", "W_q W_k W_v", "w_q w_k w_v",
    "Wq Wk Wv", "to_q to_k to_v", "to_queries to_keys to_values", "q_linear k_linear v_linear",
    "linear_q linear_k linear_v", "ln_query ln_key ln_value", "c_q c_k c_v",
    "query_projection key_projection value_projection", "q_lin k_lin v_lin", "fc_q fc_k fc_v",
    "W_Q W_K W_V", "query_linear key_linear value_linear", "linear_query linear_key linear_value",
    "WQ WK WV", "Q K V", "queries_linear keys_linear values_linear",
    "query_weights key_weights value_weights", "proj_q proj_k proj_v",
    "get_query get_key get_value", "q_layer k_layer v_layer", "fc_query fc_key fc_value",
    "lin_q lin_k lin_v",
)  # fmt: skip
QKV_OF_PAIRS = (
    *QKV, "query=linears.0 key=linears.1 value=linears.2", "w_qs w_ks w_vs",
    "query.linear key.linear value.linear",
)  # fmt: skip
Way = Callable[[str, str], tuple[Row, ...]]  # the rows of queries, keys and values


def separate(flax: str, inside: str) -> tuple[Row, ...]:
    """The rows of a matrix each for queries, keys and values, or of a stack of them by head."""
    name = f"{inside}{{qkv}}"
    return (
        *linear(f"{flax}/qkv : layer d head qkv k", f"{name} : (head k) d", "?"),
        row(f"{flax}/qkv/kernel : layer d head qkv k", f"{name}.weight : head k d"),
        row(f"{flax}/qkv/bias : layer head qkv k", f"{name}.bias? : head k"),
    )


def fused(flax: str, inside: str) -> tuple[Row, ...]:
    """The rows of one matrix for all three."""
    one = f"{inside}{choice(FUSED, 'qkv')}"
    return linear(f"{flax}/qkv : layer d head qkv k", f"{one} : (qkv head k) d", "?")


def shared(flax: str, inside: str) -> tuple[Row, ...]:
    """The rows of a matrix each that all heads share, each for its own part of the input."""
    name = f"{inside}{{qkv}}"
    return (
        row(f"{flax}/qkv/kernel : layer (head j) head qkv k", f"{name}.weight : k j"),
        row(f"{flax}/qkv/bias : layer head qkv k", f"{name}.bias? : k"),
    )


def in_two(flax: str, inside: str) -> tuple[Row, ...]:
    """The rows of one matrix for queries, and one for keys and values."""
    query, rest = f"{inside}{choice(QUERY, 'q_proj')}", f"{inside}{choice(KEY_VALUE, 'kv_proj')}"
    return (
        *linear(f"{flax}/qkv : layer d head qkv k", f"{query} : (q head k) d", "?"),
        *linear(f"{flax}/qkv : layer d head qkv k", f"{rest} : (k_v head k) d", "?"),
    )


def by_head(flax: str, inside: str) -> tuple[Row, ...]:
    """The rows of a module for each head, with a matrix each for queries, keys and values."""
    head = f"{inside}{choice(parts.HEADS, 'heads.')}{{head}}"
    return linear(f"{flax}/qkv : layer d head qkv k", f"{head}.{{qkv}} : k d", "?")


CACHES = (
    "cache_k cache_v k_cache v_cache kv_cache.k_cache kv_cache.v_cache kv_cache.cache_k "
    "kv_cache.cache_v key_cache value_cache"
)


def caches(inside: str) -> tuple[Buffer, ...]:
    """The rows of keys and values that a class caches while it generates, which are not weights."""
    return tuple(ignored(f"{inside}{word}") for word in CACHES.split())


def of_torch(flax: str, inside: str) -> tuple[Row, ...]:
    """The rows of an nn.MultiheadAttention."""
    return (
        row(f"{flax}/qkv/kernel : layer d head qkv k", f"{inside}in_proj_weight : (qkv head k) d"),
        row(f"{flax}/qkv/bias : layer head qkv k", f"{inside}in_proj_bias? : (qkv head k)"),
    )


def inside_attention(blocks: str, module: str) -> str:
    """The prefix of names in the attention, which is `module`, or the block itself."""
    words = " ".join(f"{word}." for word in parts.ATTENTION.split())
    return f"{blocks}.{choice(f'{words} ', f'{module}.')}"


def out(blocks: str, module: str, first: str) -> tuple[Row, ...]:
    """The rows of the optional projection after attention, in its module or next to it."""
    inside, alongside = (
        f"{inside_attention(blocks, module)}{choice(parts.OUT, first)}",
        f"{blocks}.(proj|out_proj|attn_proj)",
    )
    return optional(
        (
            *linear("blocks/attn/out : layer head k d", f"{inside} : d (head k)"),
            row("blocks/attn/out/kernel : layer head k d", f"{inside}.weight : head d k"),
            *linear("blocks/attn/out : layer head k d", f"{alongside} : d (head k)"),
        )
    )


def masks(blocks: str, module: str) -> tuple[Buffer, ...]:
    """The rows of causal masks at every place in use; none is written on export."""
    inside, word = inside_attention(blocks, module), choice(parts.MASKS, "mask")
    places = (f"{inside}{word}", f"{blocks}.{word}", word, f"transformer.{word}")
    return tuple(
        mask(f"{place} : {dims}", written=False) for place in places for dims in parts.SQUARES
    )
