"""Names that classes give to gated MLPs, rotary tables and ALiBi's slopes.

The variants of families with such parts are made from them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..rows.dialect import Dialect
from ..rows.kinds import SLOPES, Buffer, Row, linear, table
from . import attention_parts, parts

# The matrices of a gated MLP: gate, up and down. Each word says which it is, or has one use only.
NAMED = (
    "gate_proj up_proj down_proj", "gate up down", "w_gate w_up w_down", "W_gate W_up W_down",
    "linear_gate linear_up linear_down", "gate_linear up_linear down_linear",
    "fc_gate fc_up fc_down", "gate_fc up_fc down_fc", "proj_gate proj_up proj_down",
    "gate_layer up_layer down_layer", "gate_projection up_projection down_projection",
    "c_gate c_up c_down", "gate up_proj down_proj", "gate_proj fc1 fc2", "gate fc1 fc2",
    "gate c_fc c_proj", "c_gate c_fc c_proj", "gate_proj c_fc c_proj", "w_gate c_fc c_proj",
    "c_fc c_fc2 c_proj", "c_fc1 c_fc2 c_proj", "c_fc_1 c_fc_2 c_proj", "fc_1 fc_2 proj",
    "fc1 fc2 proj", "fc1 fc2 c_proj", "gate fc proj", "w_gate w_in w_out", "gate w_in w_out",
    "w_gate w_value w_out", "W_gate W_in W_out", "linear_gate linear_in linear_out",
    "gate_proj in_proj out_proj", "gate_proj value_proj out_proj", "gate value out",
    "wi_0 wi_1 wo", "w v w2", "W V W2", "gate linear1 linear2", "w_g w_u w_d", "wg wu wd",
    "w_gate w1 w2", "gate w1 w2", "W_g W_u W_d", "gate_proj w1 w2", "w1 w2 proj",
    "w1 w2 c_proj", "w1 w2 out_proj", "w1 w2 out", "c_fc_gate c_fc_up c_proj",
)  # fmt: skip
# Numbers, of which the last or the second may be the matrix that leads back.
NUMBERED = (
    "w1 w2 w3", "fc1 fc2 fc3", "fc_1 fc_2 fc_3", "w_1 w_2 w_3", "W1 W2 W3", "W_1 W_2 W_3",
    "linear1 linear2 linear3", "linear_1 linear_2 linear_3", "lin1 lin2 lin3", "l1 l2 l3",
    "c_fc1 c_fc2 c_fc3", "dense1 dense2 dense3", "proj1 proj2 proj3",
)  # fmt: skip
# Gate and up in one matrix, the gate first or last. A word that shows neither is taken to hold the
# gate last, as torch's own glu does.
GATE_FIRST = (
    "gate_up_proj gate_up w12 w13 w1_w3 gate_and_up gate_up_linear fc_gate_up gate_value_proj "
    "w_gate_up linear_gate_up proj_gate_up c_gate_up"
)
GATE_LAST = (
    "up_gate_proj up_gate up_and_gate w_up_gate fc_up_gate value_gate_proj linear_up_gate "
    "net.0.proj ff.0.proj 0.proj wi w_in proj_in in_proj"
)
BACK = "w3 out_proj w_out wo proj_out out"  # further words of the second matrix
# Modules that hold rotary tables, each with its dot; "" is the attention or the model itself.
ROTATION = (
    "rope. rotary. rotary_emb. rope_emb. rotary_embedding. pos_emb. position_embedding. "
    "positional_encoding. rotary_pos_emb. pos_encoding. rotary_embed. pe. rotary_pe. pos_embed. "
    "rotary_positional_embedding. positional_embedding. rotary_embeddings. rotary_position. "
)
COS, SIN = (
    f"{word} _{word} {word}_cached {word}_cache _{word}_cached rope_{word} freqs_{word} "
    f"{word}_table {word}_emb rotary_{word} cached_{word} {word}s _{word}_cache {word}_freqs"
    for word in ("cos", "sin")
)
FREQUENCIES = (
    "inv_freq _inv_freq freqs inv_freqs theta thetas rope_freqs inverse_freq frequencies freq "
    "inv_frequencies"
)
CIS = "freqs_cis freqs_complex pos_cis freqs_cis_cache rope_cache rotary_cis rope_cis freqs"
# Buffers with ALiBi's slopes, which some classes have in a module of their own.
SLOPE_WORDS = (
    "slopes alibi_slopes alibi_slope slope m alibi_m head_slopes alibi.slopes alibi.slope alibi.m "
    "alibi.alibi_slopes alibi_bias.slopes pos_bias.slopes position_bias.slopes pos_emb.slopes"
)


@dataclass(frozen=True)
class Gated:
    """One way in which a gated MLP is stored."""

    rows: tuple[Row, ...]
    words: Mapping[str, tuple[str, ...]]
    order: str = "gate_up"  # where no word tells it


def _three(inside: str, triples: Sequence[str], order: str) -> Gated:
    """A gated MLP of three matrices; each of `triples` has their words in `order`."""
    named = [dict(zip(order.split(), each.split(), strict=True)) for each in triples]
    down = parts.choice(" ".join(each["down"] for each in named), named[0]["down"])
    return Gated(
        (
            *linear("blocks/mlp/gate_up : layer d glu f", f"{inside}{{glu}} : f d", "?"),
            *linear("blocks/mlp/down : layer f d", f"{inside}{down} : d f", "?"),
        ),
        {"glu": tuple(f"gate={each['gate']} up={each['up']}" for each in named)},
    )


def _two(inside: str, words: str, first: str, down: str) -> Gated:
    """A gated MLP of two matrices; the first, one of `words`, begins with the half `first`."""
    one, *others = words.split()
    return Gated(
        (
            *linear(
                "blocks/mlp/gate_up : layer d glu f",
                f"{inside}{parts.choice(' '.join(others), one)} : (glu f) d",
                "?",
            ),
            *linear(
                "blocks/mlp/down : layer f d",
                f"{inside}{parts.choice(f'{parts.DOWN} {BACK}', down)} : d f",
                "?",
            ),
        ),
        {"glu": ("gate up" if first == "gate" else "up gate",)},
        "gate_up" if first == "gate" else "up_gate",
    )


def with_gated(plain: Dialect, blocks: str, module: str) -> Dialect:
    """The family `plain` with a variant for each way of storing a gated MLP."""
    inside = parts.inside_mlp(blocks, module)
    last = f"{GATE_LAST} {parts.UP}"
    ways = (
        _three(inside, NAMED, "gate up down"),
        _three(inside, NUMBERED, "gate down up"),
        _three(inside, NUMBERED, "gate up down"),
        _two(inside, GATE_FIRST, "gate", "down_proj"),
        _two(inside, last, "up", "down_proj"),
    )
    return replace(plain, variants=tuple(_variant(plain, way) for way in ways))


def _variant(plain: Dialect, way: Gated) -> Dialect:
    """The family `plain` with the rows of `way` in place of those of a plain MLP."""
    is_mlp = [
        isinstance(each, Row) and each.flax.name.startswith("blocks/mlp/") for each in plain.rows
    ]
    start = is_mlp.index(True)
    others = [each for each, mlp in zip(plain.rows, is_mlp, strict=True) if not mlp]
    return replace(
        plain,
        rows=(*others[:start], *way.rows, *others[start:]),
        words={**plain.words, **way.words},
        unsaid={
            **plain.unsaid,
            "activation": "silu",
            "norm_kind": "rms",
            "gate_order": way.order,
        },
    )


def with_variants(first: Dialect, others: Sequence[Dialect]) -> Dialect:
    """The dialect `first` with `others`, and all of their variants, as its further variants."""
    variants = [each for other in others for each in (other, *other.variants)]
    plain = tuple(replace(each, variants=()) for each in variants)
    return replace(first, variants=(*first.variants, *plain))


def tables(blocks: str, module: str) -> tuple[Buffer, ...]:
    """The rows of rotary tables and of ALiBi's slopes at every place in use.

    They are in a file or follow from fields. A file may have frequencies once (`w`), beside tables
    that have them twice (`r`).
    """
    inside = attention_parts.inside_attention(blocks, module)
    places = inside, f"{blocks}.", "(transformer.|model.|)"
    modules = parts.choice(f"{ROTATION} ", "rope.")
    slopes = parts.choice(SLOPE_WORDS, "slopes")
    return (
        *(
            table(f"{place}{modules}{parts.choice(words, words.split()[0])}? : {dims}", form)
            for place in places
            for words, form, forms in (
                (COS, "cos", ("u r", "() u r", "() () u r", "() u () r", "u () r")),
                (SIN, "sin", ("u r", "() u r", "() () u r", "() u () r", "u () r")),
                (FREQUENCIES, "frequencies", ("w",)),
                (CIS, "cis", ("u r",)),
                (CIS, "pairs", ("u r two",)),
            )
            for dims in forms
        ),
        *(
            table(f"{place}{slopes}? : {dims}", SLOPES)
            for place in places
            for dims in ("head", "head ()", "() head", "head () ()", "() head () ()")
        ),
    )
