"""Roles by structure: synthetic layouts of which the truth is known, and the names of real files, where they are."""

import json
import pickle
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from convert.detect.by_structure import described, propose
from convert.detect.detect import Detected, detect
from convert.dialects import DIALECTS
from convert.files import safefile
from convert.rows.axes import View
from convert.rows.dialect import Dialect
from convert.rows.fields import FIELDS
from convert.rows.fit import fit
from convert.rows.kinds import Alias, Buffer, Row
from convert.rows.order import in_module_order
from convert.rows.parameters import to_flax
from convert.rows.resolve import settle
from convert.rows.tensors import Tensors
from convert.rows.whole import to_torch
from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.pytree import Tree, flatten
from tests.helpers import random_params
from tests.zoo import ZOO, needs_zoo

TELLING = [  # names from which the roles can be read even without an order
    {
        "token": "wte",
        "positions": "wpe",
        "head": "lm_head",
        "norms": "ln_1 ln_2",
        "mlp": "mlp.c_fc mlp.c_proj",
    },
    {"token": "token_embedding_table", "positions": "position_embedding_table", "norms": "ln1 ln2"},
    {
        "token": "tok_emb",
        "positions": "pos_emb",
        "head": "out_head",
        "norms": "norm1 norm2",
        "mlp": "ff.0 ff.3",
    },
    {
        "token": "word_embeddings",
        "positions": "pe",
        "head": "vocab_projection",
        "norms": "first_norm second_norm",
    },
    {
        "token": "embed",
        "positions": "pos_embed",
        "head": "fc_out",
        "norms": "attn_norm ff_norm",
        "mlp": "fc1 fc2",
    },
    {
        "head": "head.0",
        "norms": "input_layernorm post_attention_layernorm",
        "mlp": "mlp.up_proj mlp.down_proj",
    },
    {"norms": "ln ln_ff", "mlp": "mlp.hidden mlp.output"},
    {
        "head": "linear",
        "norms": "layer_norm_one layer_norm_two",
        "mlp": "nn.first_linear_layer nn.second_linear_layer",
    },
    {
        "head": "decoder",
        "norms": "preNorm postNorm",
        "mlp": "ffn.fc_in ffn.fc_out",
        "final": "encoder.norm",
    },
]
MUTE = [  # names that say nothing: only structure and order tell
    {
        "token": "ord",
        "positions": "plats",
        "head": "ut",
        "norms": "jamna skala",
        "mlp": "snabb.a snabb.b",
    },
    {"token": "x", "positions": "y", "head": "z", "norms": "b a", "mlp": "d c", "final": "e"},
    {
        "blocks": "lagen",
        "attention": "uppmarksamhet",
        "norms": "ln_a ln_b",
        "mlp": "natet.forst natet.sist",
    },
]
QKV = [
    "key query value", "q_proj k_proj v_proj", "W_query W_key W_value", "wq wk wv", "get_keys get_queries get_values",
    "k v q", "keyNetwork valueNetwork queryNetwork", "to_q to_k to_v", "q_lin.linear k_lin.linear v_lin.linear",
    "W_Q W_K W_V", "WQ WK WV", "V K Q",
]  # fmt: skip
SCALES = ["weight bias", "gamma beta", "scale shift", "g b", "a_2 b_2", "scale offset"]


@dataclass(frozen=True)
class Layout:
    """A class of GPT that somebody may have written."""

    layers: int = 2
    v: int = 61
    t: int = 24
    d: int = 30
    heads: int = 5
    k: int = 6
    f: int = 77
    kind: str = "separate"
    prefix: str = ""
    blocks: str = "blocks"
    attention: str = "attn"
    qkv: str = "query key value"
    out: str = "attn.proj"
    mlp: str = "ffn.net.0 ffn.net.2"
    norms: str = "ln1 ln2"
    scale: str = "weight bias"
    final: str = "ln_f"
    token: str = "token_embedding"
    positions: str = "position_embedding"
    head: str = "lm_head"
    table: str = "t d"
    mask: str = ""
    mask_dims: str = "t t"
    norms_last: bool = False
    biases: frozenset[str] = field(
        default_factory=lambda: frozenset({"out", "mlp", "head", "norms"})
    )

    def tensors(self) -> dict[str, tuple[str, str]]:
        """name -> (flax name, torch dims), in the order of the class."""
        found: dict[str, tuple[str, str]] = {}

        def linear(name: str, role: str, dims: str, bias: bool, leaf: str = "weight") -> None:
            out = View.parse(f"x : {dims}").dims[0]
            text = out[0] if len(out) == 1 else f"({' '.join(out)})"
            conv = self.kind == "conv" and "blocks/" in role
            found[f"{name}{leaf}"] = (
                f"{role}/kernel",
                f"{dims[len(text) + 1 :]} {text}" if conv else dims,
            )
            if bias:
                found[f"{name}{leaf.replace('weight', 'bias')}"] = (f"{role}/bias", text)

        def norm(name: str, role: str) -> None:
            for leaf, word in zip(("scale", "bias"), self.scale.split(), strict=True):
                if leaf == "scale" or "norms" in self.biases:
                    found[f"{self.prefix}{name}.{word}"] = (f"{role}/{leaf}", "d")

        def mask(place: str) -> None:
            if self.mask.startswith(f"{place} "):
                inside = {
                    "top": self.prefix,
                    "block": block,
                    "attention": attention,
                    "head": f"{attention}{i}.",
                }[place]
                found[f"{inside}{self.mask.split()[1]}"] = ("mask", self.mask_dims)

        block = attention = ""
        i = 0
        mask("top")
        found[f"{self.prefix}{self.token}.weight"] = ("token_embedding/embedding", "v d")
        if self.positions:
            leaf = ".weight" if self.table == "t d" else ""
            found[f"{self.prefix}{self.positions}{leaf}"] = ("pos_embedding/embedding", self.table)
        for layer in range(self.layers):
            block = f"{self.prefix}{self.blocks}.{layer}."
            attention = f"{block}{self.attention}." if self.attention else block
            one, two = (f"{self.blocks}.{layer}.{name}" for name in self.norms.split())
            up, down = (f"{block}{name}." for name in self.mlp.split())
            mask("block")
            if not self.norms_last:
                norm(one, "blocks/norm1")
            mask("attention")
            bias = "qkv" in self.biases
            for i in range(self.heads if self.kind == "heads" else 0):
                mask("head")
                for word in self.qkv.split():
                    linear(f"{attention}{i}.{word}.", f"blocks/attn/{meant(word)}", "k d", bias)
            for word in self.qkv.split() if self.kind == "separate" else ():
                linear(f"{attention}{word}.", f"blocks/attn/{meant(word)}", "(head k) d", bias)
            if self.kind in ("fused", "conv", "mha"):
                leaf = "in_proj_weight" if self.kind == "mha" else "qkv.weight"
                linear(attention, "blocks/attn/qkv", "(qkv head k) d", bias, leaf)
            if self.out:
                linear(f"{block}{self.out}.", "blocks/attn/out", "d (head k)", "out" in self.biases)
            if not self.norms_last:
                norm(two, "blocks/norm2")
            linear(up, "blocks/mlp/up", "f d", "mlp" in self.biases)
            linear(down, "blocks/mlp/down", "d f", "mlp" in self.biases)
            if self.norms_last:
                norm(one, "blocks/norm1")
                norm(two, "blocks/norm2")
        if self.final:
            norm(self.final, "final_norm")
        if self.head:
            linear(f"{self.prefix}{self.head}.", "head", "v d", "head" in self.biases)
        return found

    def shapes(self) -> dict[str, tuple[int, ...]]:
        sizes = {
            "v": self.v,
            "t": self.t,
            "d": self.d,
            "kv": self.heads,
            "group": 1,
            "k": self.k,
            "f": self.f,
        }
        return {
            name: View.parse(f"x : {dims}").shape(sizes)
            for name, (_, dims) in self.tensors().items()
        }


def meant(word: str) -> str:
    return next(
        label
        for label in ("query", "key", "value")
        if label[0] in word.removeprefix("get_").split("Net")[0].lower()
    )


CANONICAL = {row.flax for row in DIALECTS["gpt"].rows if isinstance(row, Row)} | {
    View.parse("blocks/attn/qkv/bias : layer head qkv k"),
}


def given_roles(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[str, str]]:
    """name -> (flax name, torch dims), as the proposal has them."""
    proposal = propose(shapes)
    assert not proposal.problems
    assert proposal.dialect is not None
    assert {row.flax for row in proposal.dialect.rows if isinstance(row, Row)} <= CANONICAL
    return roles(proposal.dialect, shapes)


def roles(dialect: Dialect, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for row in dialect.rows:
        view = row.torch.view(dialect.spelling)
        flax = {Buffer: "mask", Alias: "head/kernel"}.get(type(row), "")
        for name in shapes:
            place = view.match(name)
            if place is not None:
                assert name not in found, f"{name} is claimed twice"
                role = row.flax.name if isinstance(row, Row) else flax
                label = ("query", "key", "value")[place["qkv"]] if "qkv" in place else "qkv"
                found[name] = (role.replace("qkv", label), view.formula)
    return found


@st.composite
def layouts(draw: st.DrawFn, words: list[dict[str, str]]) -> Layout:
    def pick(*choices: Any) -> Any:
        return draw(st.sampled_from(choices))

    d, heads, k = pick((30, 5, 6), (16, 4, 4), (8, 1, 8), (12, 3, 2))
    kind = pick("heads", "separate", "fused", "conv", "mha")
    attention = (
        pick("sa.heads", "attn") if kind == "heads" else pick("attn", "mhsa", "self_attn", "")
    )
    names = {"attention": attention, **pick(*words), **pick({}, {"final": ""})}
    inside = names["attention"].partition(".")[0]
    out = (
        pick(f"{inside}.proj", "proj", f"{inside}.compute")
        if inside
        else pick("proj", "o", "attn_out")
    )
    square = d == heads * k
    mask = pick(
        "",
        "top causal_mask",
        "block mask",
        "attention bias",
        *(["head tril"] if kind == "heads" else []),
    )
    return Layout(
        **names, layers=pick(1, 2), d=d, heads=heads, k=k, kind=kind, v=pick(d, 61), t=pick(d, 24), f=pick(d, 77),
        qkv=pick(*QKV), scale=pick(*SCALES), prefix=pick("", "model.", "_orig_mod.module."),
        out=pick(out, "") if square and kind != "mha" else out, mask=mask,
        mask_dims=pick("t t", "() t t", "() () t t"), norms_last=pick(True, False),
        table=pick("t d", "() t d", "t () d"),
        biases=frozenset(draw(st.sets(st.sampled_from(["qkv", "out", "mlp", "head", "norms"])))),
    )  # fmt: skip


def by_name(layout: Layout) -> dict[str, tuple[int, ...]]:
    return dict(sorted(layout.shapes().items()))


@settings(max_examples=150, deadline=None)
@given(layouts(TELLING + MUTE))
def test_each_tensor_is_given_its_role_though_sizes_coincide(layout: Layout) -> None:
    shapes = layout.shapes()
    inside = [name for name in shapes if f"{layout.blocks}.0." in name]
    assume(inside != sorted(inside))  # by accident in the order of the alphabet, which says nothing
    assert given_roles(shapes) == layout.tensors()
    dialect = propose(shapes).dialect
    assert dialect is not None
    found = fit(settle(dialect, Tensors(shapes)), shapes)
    assert found.dialect == dialect
    assert not found.problems
    sizes = {"layer": layout.layers, "kv": layout.heads}
    assert in_module_order(list(dialect.tensors), sizes) == list(shapes)


@settings(max_examples=50, deadline=None)
@given(layouts(TELLING))
def test_words_tell_where_a_file_is_sorted_by_name(layout: Layout) -> None:
    assert given_roles(by_name(layout)) == layout.tensors()


SQUARE = Layout(v=30, t=30, f=30, biases=frozenset())
FLAT = replace(SQUARE, attention="", mlp="w1 w2", out="o")


@pytest.mark.parametrize("kind", ["heads", "separate"])
@pytest.mark.parametrize("words", QKV)
def test_words_for_query_key_and_value(kind: str, words: str) -> None:
    layout = replace(SQUARE, kind=kind, qkv=words)
    assert given_roles(layout.shapes()) == layout.tensors()
    dialect = propose(layout.shapes()).dialect
    assert dialect is not None
    assert [meant(word) for word in dialect.words["qkv"][0].split()] == [
        meant(word) for word in words.split()
    ]


@pytest.mark.parametrize(
    "layout",
    [
        FLAT,  # the words for attention's output
        replace(FLAT, kind="fused", f=90),  # the words for all three
        replace(
            SQUARE, attention="core", out="core.x", mlp="w1 w2"
        ),  # what stands beside attention is no MLP
        replace(
            SQUARE, attention="core", out="x", mlp="n.0 n.1"
        ),  # what stands in the MLP is not attention's
        replace(
            SQUARE, kind="heads", attention="sa.heads", out="sa.vx", qkv="q k v"
        ),  # it is of no head
        replace(
            SQUARE, kind="heads", attention="net.1.heads"
        ),  # the second number counts heads, the first nothing
        replace(
            SQUARE, attention="0", mlp="1.net.0 1.net.2", out=""
        ),  # nor does this, though a member has three
        replace(SQUARE, mask="block mask", out=""),  # a mask is no output
        replace(
            SQUARE, positions="", token="y", head="x", biases=frozenset({"head"})
        ),  # an embedding has no bias
        replace(
            SQUARE, token="y", positions="x", head="", t=24, mask="top mask"
        ),  # the mask tells T
    ],
)
def test_what_decides_where_order_does_not(layout: Layout) -> None:
    assert given_roles(by_name(layout)) == layout.tensors()


def test_order_decides_last() -> None:
    layout = replace(
        SQUARE, attention="", out="c", mlp="b a", norms="e d", token="z", positions="y", head="x"
    )
    assert given_roles(layout.shapes()) == layout.tensors()


@pytest.mark.parametrize(
    ("layout", "undecided"),
    [
        (
            replace(SQUARE, norms="x y"),
            "x.weight or blocks.{layer}.y.weight: nothing shows which is the norm of att",
        ),
        (
            replace(SQUARE, mlp="x y"),
            "x.weight or blocks.{layer}.y.weight: nothing shows which is the first matrix of",
        ),
        (
            replace(SQUARE, token="x", positions="y"),
            "x.weight or y.weight: nothing shows which is the token embedding",
        ),
        (
            replace(SQUARE, token="x", positions="y"),
            "y.weight or x.weight: nothing shows which is the position table",
        ),
        (
            replace(SQUARE, positions="", token="x", head="y"),
            "x.weight or y.weight: nothing shows which is the token",
        ),
        (
            replace(SQUARE, positions="x", head=""),
            "x.weight or none: nothing shows which is the position table",
        ),
    ],
)
def test_where_neither_structure_nor_words_nor_order_tell_it_says_so(
    layout: Layout, undecided: str
) -> None:
    assert given_roles(layout.shapes()) == layout.tensors()
    proposal = propose(by_name(layout))
    assert proposal.dialect is None
    assert undecided in "; ".join(proposal.problems)


def test_order_and_orientation_that_contradict_each_other_decide_nothing() -> None:
    """Of (D, F), then (F, D), the first may be the second of nn.Linear or the first of a Conv1D; biases would tell."""
    layout = Layout(mlp="y x", biases=frozenset({"mlp"}))
    shapes = layout.shapes()
    names = [f"blocks.{n}.{module}" for n in range(2) for module in "xy"]
    swapped = {**{name: shapes[name] for name in shapes if not name.startswith(tuple(names))}}
    swapped |= {
        f"{name}.{leaf}": shapes[f"{name}.{leaf}"] for name in names for leaf in ("weight", "bias")
    }
    assert given_roles(swapped) == layout.tensors()
    mute = {
        name: shape
        for name, shape in swapped.items()
        if name not in {f"{module}.bias" for module in names}
    }
    assert "nothing shows which is the first matrix" in propose(mute).problems[0]


BLOCK = "blocks.{layer}."


@pytest.mark.parametrize(
    ("added", "why"),
    [
        (
            {"blocks.N.ffn.gate.weight": (77, 30)},
            f"{BLOCK}ffn.gate.weight (77, 30): one too many beside {BLOCK}ffn.net.",
        ),
        ({"blocks.N.ffn.w3.weight": (77, 30)}, "ffn.w3.weight (77, 30): one too many beside"),
        (
            {"blocks.N.attn.gate.weight": (30, 30)},
            f"{BLOCK}attn.gate.weight (30, 30): one too many beside {BLOCK}attn.",
        ),
        (
            {"blocks.N.ln3.weight": (30,), "blocks.N.ln3.bias": (30,)},
            f"ln3.bias (30,): one too many beside {BLOCK}ln",
        ),
        (
            {"ln_emb.weight": (30,), "ln_emb.bias": (30,)},
            "ln_emb.weight (30,): one too many beside ln_f.weight, the norm",
        ),
        (
            {"ln_g.weight": (30,), "ln_g.bias": (30,)},
            "ln_f.weight or ln_g.weight: nothing shows which is the norm after",
        ),
        ({"blocks.N.attn.rotary.turns": (3,)}, "turns (3,): one too many beside"),
        (
            {"blocks.N.attn.relative_attention_bias.weight": (32, 5)},
            "weight (32, 5): belongs to relative positions",
        ),
        ({"blocks.N.attn.rel.weight": (47, 6)}, "rel.weight (47, 6): one too many"),
        ({"blocks.N.conv.weight": (30, 30, 3)}, "conv.weight (30, 30, 3): "),
        ({"blocks.N.alpha": ()}, f"{BLOCK}alpha (): one too many"),
        (
            {"project_in.weight": (30, 18)},
            "project_in.weight (30, 18): belongs to embeddings of another width",
        ),
        (
            {"lstm.weight_ih_l0": (120, 30)},
            "lstm.weight_ih_l0 (120, 30): belongs to a recurrent network",
        ),
        ({"score.weight": (3, 30)}, "score.weight (3, 30): belongs to a classifier's head"),
        (
            {"blocks.N.experts.0.x.weight": (77, 30)},
            "experts.0.x.weight (77, 30): belongs to a decoder with experts",
        ),
        (
            {"blocks.N.attn.query.bias": (30,)},
            "query.weight (30, 30) with a bias, blocks.{layer}.attn.key.weight (30, 30), ",
        ),
        (
            {"encoder.N.a": (9, 9), "encoder.N.b": (9, 9), "encoder.N.c": (9, 9)},
            "than one list of blocks, blocks. and enc",
        ),
        ({"blocks.1.more": (1,)}, "blocks.1 is not one more of the same"),
        (
            {"blocks.3.a": (9, 9), "blocks.3.b": (9, 9), "blocks.3.c": (9, 9)},
            "blocks.3 is not one more of the same",
        ),
        ({f"blocks.N.attn.{word}.g": (6,) for word in "abc"}, "attn.a.g (6,): one too many"),
        (
            {f"blocks.N.x{i}.weight": (30, 30) for i in range(40)},
            " and 38 more cannot be query, key, value; first",
        ),
        ({"blocks.N.attn.bias": (5, 24, 24)}, "attn.bias (5, 24, 24): one too many"),
        ({"mask": (24, 30)}, "mask (24, 30)"),
        (
            {"position_embedding.weight": (2, 24, 30)},
            "position_embedding.weight (2, 24, 30): one too many",
        ),
        ({"blocks.N.attn.proj.weight": (30, 30, 1)}, "attn.proj.weight (30, 30, 1)"),
        *(
            ({f"a{letter}b": (1,)}, " is not a valid name for a tensor")
            for letter in "(){}|?: \\\n"
        ),
        ({"a" * 401: (1,)}, " is not a valid name for a tensor"),
    ],
)
def test_what_has_no_role_is_named(added: dict[str, tuple[int, ...]], why: str) -> None:
    more = {name.replace("N", str(n)): shape for n in range(2) for name, shape in added.items()}
    proposal = propose(Layout().shapes() | more)
    assert proposal.dialect is None
    assert why in "; ".join(proposal.problems)


@pytest.mark.parametrize(
    ("gone", "why"),
    [
        (
            "ln2.bias",
            "ln1.weight (30,) with a bias, blocks.{layer}.ln2.weight (30,) cannot be norm of attention; norm of",
        ),
        ("ln_f.bias", "ln_f.weight (30,): one too many"),
        (
            "ffn.net.2.bias",
            "net.0.weight (77, 30) with a bias, blocks.{layer}.ffn.net.2.weight (30, 77) cannot be",
        ),
        (
            "ln2.",
            "blocks.{layer}.ln1.weight (30,) with a bias cannot be norm of attention; norm of the MLP",
        ),
        (
            "ffn.net.2.",
            "blocks.{layer}.ffn.net.0.weight (77, 30) with a bias cannot be query, key, value; first matrix",
        ),
        ("attn.key.", "cannot be query, key, value; first matrix"),
        ("token_embedding.", "lm_head.weight (61, 30): one too many"),
        ("blocks.", "no list of blocks"),
        ("blocks.0.", "blocks.1 is not one more of the same"),
    ],
)
def test_what_is_missing_is_named(gone: str, why: str) -> None:
    proposal = propose(
        {name: shape for name, shape in Layout().shapes().items() if gone not in name}
    )
    assert proposal.dialect is None
    assert why in "; ".join(proposal.problems)


def test_a_norm_of_the_embedding_is_not_the_last_one() -> None:
    assert propose(Layout(final="ln_x").shapes()).dialect
    assert (
        "ln_emb.weight (30,): one too many" in propose(Layout(final="ln_emb").shapes()).problems[0]
    )


def test_rmsnorm_is_told_by_its_name() -> None:
    for words, kind in (("norm1 norm2", "layer"), ("rms_norm1 rms_norm2", "rms")):
        dialect = propose(Layout(norms=words, biases=frozenset()).shapes()).dialect
        assert dialect is not None
        assert dialect.unsaid["norm_kind"] == kind


MODERN = ModelConfig(
    vocab_size=61, context_length=24, model_dim=30, num_blocks=2, num_heads=6, num_kv_heads=2,
    head_dim=8, mlp_dim=77, positions="rotary", norm_kind="rms", norm_bias=False, mlp_gated=True,
    activation="silu", mlp_bias=False, qkv_bias=True, attention_out_bias=False, head_bias=False,
    dropout=0.0,
)  # fmt: skip


def disguised(
    source: str, words: dict[str, str], config: ModelConfig = MODERN, turned: bool = False
) -> tuple[dict[str, np.ndarray], Tree]:
    """Tensors of a class with names of its own, in alphabetic order if `turned`; and the parameters."""
    params = random_params(config, np.dtype("float32"))
    tensors = to_torch(DIALECTS[source], config, params)
    words = {"blocks": "stack", "ln1": "rms_att", "ln2": "rms_mlp", "ffn": "g_mlp", **words}
    for old, new in words.items():
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    return dict(sorted(tensors.items())) if turned else tensors, params


def as_auto(tensors: dict[str, np.ndarray], **given: Any) -> Detected:
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    known = {"positions": "rotary", "context_length": 24, **given}
    return detect(shapes, tensors.__getitem__, "weights.pt", "auto", known)


TOLD = {  # words for gate, up and down; whether numbers tell the gate
    "gate_proj up_proj down_proj": False,
    "Gate Up Down": False,
    "gate main back": False,
    "side up back": False,
    "g.lin u.lin o.lin": False,
    "wg wu wd": False,
    "w_1 w_3 w_2": True,
    "fc1 fc2 fc3": True,
    "lin.0 lin.1 lin.2": True,
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("words", TOLD)
def test_the_gate_is_told_by_words_or_taken_by_number_openly(words: str, turned: bool) -> None:
    gate, up, down = words.split()
    new = {"gate_proj": "@1", "up_proj": "@2", "down_proj": "@3", "@1": gate, "@2": up, "@3": down}
    tensors, params = disguised("separate", new, turned=turned)
    if turned:  # no order tells
        tensors = dict(reversed(tensors.items()))
    detected = as_auto(tensors, num_heads=6)
    config = detected.report.config
    different = {field for field, value in vars(MODERN).items() if getattr(config, field) != value}
    assert not different
    assert ("gate_order" in detected.report.assumed) == TOLD[words]
    back = flatten(to_flax(detected.dialect, config, tensors.__getitem__))
    assert all(back[path].tobytes() == value.tobytes() for path, value in flatten(params).items())


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("separate", {"gate_proj": "a", "up_proj": "b", "down_proj": "c"}),
        ("separate", {"gate_proj": "inner.a", "up_proj": "inner.b", "down_proj": "back"}),
        ("separate", {"gate_proj": "gate_up", "up_proj": "up_gate"}),
    ],
)
def test_a_gate_that_nothing_tells_is_assumed_openly(source: str, words: dict[str, str]) -> None:
    tensors, params = disguised(source, words)
    assert "gate_order" in as_auto(tensors, num_heads=6).report.assumed
    assert equal_with("gate_up", tensors, params)
    assert not equal_with("up_gate", tensors, params)


def equal_with(order: str, tensors: dict[str, np.ndarray], params: Tree) -> bool:
    """Whether the tensors, read in that order of gates, are the parameters."""
    detected = as_auto(tensors, num_heads=6, gate_order=order)
    assert "gate_order" in detected.report.given
    back = flatten(to_flax(detected.dialect, detected.report.config, tensors.__getitem__))
    return all(back[path].tobytes() == value.tobytes() for path, value in flatten(params).items())


@pytest.mark.parametrize("first", ["gate", "up", ""])
def test_the_halves_of_a_matrix_with_a_gate_are_told_by_words(first: str) -> None:
    tensors, params = disguised("separate", {"gate_proj": "@", "up_proj": "wide_up"})
    joined = {"gate": "w_gate_val", "up": "w_val_gate", "": "w_in"}[first]
    for layer in range(2):
        inside = f"stack.{layer}.g_mlp"
        gate, up = (tensors.pop(f"{inside}.{word}.weight") for word in ("@", "wide_up"))
        both = [up, gate] if first == "up" else [gate, up]
        tensors[f"{inside}.{joined}.weight"] = np.concatenate(both)
    if not first:
        assert as_auto(tensors, num_heads=6).report.assumed["gate_order"] == "up_gate"
        assert equal_with("gate_up", tensors, params)
        assert not equal_with("up_gate", tensors, params)
        return
    detected = as_auto(tensors, num_heads=6)
    back = flatten(to_flax(detected.dialect, detected.report.config, tensors.__getitem__))
    assert all(back[path].tobytes() == value.tobytes() for path, value in flatten(params).items())
    order = "gate up" if first == "gate" else "up gate"
    assert f"what it gates (in the order {order})" in "\n".join(described(detected.dialect))


def test_grouped_queries_in_one_matrix_are_seen_by_structure() -> None:
    words = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down", "attn.qkv": "mix.all_att"}
    config = replace(MODERN, qkv_bias=False)
    tensors, params = disguised("fused", {"ff.": "ffn.", **words}, config)
    with pytest.raises(UserError, match="together are 48 wide, .* values are 16 wide, so that 3"):
        as_auto(tensors)
    detected = as_auto(tensors, num_kv_heads=2)
    assert detected.report.config.num_heads == 6
    back = flatten(to_flax(detected.dialect, detected.report.config, tensors.__getitem__))
    assert all(back[path].tobytes() == value.tobytes() for path, value in flatten(params).items())


def test_keys_of_a_width_that_queries_do_not_share_are_no_attention() -> None:
    shapes = Layout().shapes()
    narrow = {
        name: (12, *shape[1:]) if ".key." in name or ".value." in name else shape
        for name, shape in shapes.items()
    }
    assert propose(narrow).dialect is None
    shared = {
        name: (6, *shape[1:]) if ".key." in name or ".value." in name else shape
        for name, shape in shapes.items()
    }
    assert propose(shared).dialect


def test_a_bias_belongs_to_the_one_matrix_of_its_module() -> None:
    shapes = {name: shape for name, shape in Layout().shapes().items() if "ffn" not in name}
    raw = {
        f"blocks.{n}.ffn.{word}": shape
        for n in (0, 1)
        for word, shape in (("w1", (77, 30)), ("w2", (30, 77)))
    }
    assert propose(shapes | raw).dialect
    bias = {f"blocks.{n}.ffn.b": (30,) for n in (0, 1)}
    assert "blocks.{layer}.ffn.b (30,): one too many" in propose(shapes | raw | bias).problems[0]


def test_a_person_is_shown_each_row_in_plain_words() -> None:
    layout = Layout(
        kind="heads", qkv="wk wq wv", table="() t d", mask="top mask", out="", scale="g b"
    )
    dialect = propose(layout.shapes() | {"masked_bias": ()}).dialect
    assert dialect is not None
    assert described(dialect) == [
        "mask                                     (T, T)     causal mask, no weight",
        "token_embedding.weight                   (V, D)     token embedding",
        "position_embedding                       (1, T, D)  position table",
        "blocks.{layer}.ln1.g                     (D)        norm of attention",
        "blocks.{layer}.ln1.b                     (D)        norm of attention, bias",
        "blocks.{layer}.attn.{head}.{qkv}.weight  (K, D)     query, key, value (spelled wk wq wv), one head each",
        "blocks.{layer}.ln2.g                     (D)        norm of the MLP",
        "blocks.{layer}.ln2.b                     (D)        norm of the MLP, bias",
        "blocks.{layer}.ffn.net.0.weight          (F, D)     first matrix of the MLP",
        "blocks.{layer}.ffn.net.0.bias            (F)        first matrix of the MLP, bias",
        "blocks.{layer}.ffn.net.2.weight          (D, F)     second matrix of the MLP",
        "blocks.{layer}.ffn.net.2.bias            (D)        second matrix of the MLP, bias",
        "ln_f.g                                   (D)        norm after the blocks",
        "ln_f.b                                   (D)        norm after the blocks, bias",
        "lm_head.weight                           (V, D)     head, or the token embedding again",
        "lm_head.bias                             (V)        head, bias",
        "masked_bias                              ()         the number that masks, no weight",
    ]
    fused = propose(Layout(kind="conv", biases=frozenset({"qkv"})).shapes()).dialect
    assert fused is not None
    lines = "\n".join(described(fused))
    assert "attn.qkv.weight   (D, 3HK)  query, key, value, all heads\n" in lines
    assert "attn.qkv.bias     (3HK)     query, key, value, all heads, bias\n" in lines


def state_dict(root: Any) -> dict[str, Any]:
    """The largest dict of tensors alone."""
    if not isinstance(root, dict) or all(hasattr(value, "shape") for value in root.values()):
        return root if isinstance(root, dict) else {}
    return max(
        (state_dict(value) for key, value in root.items() if "optim" not in str(key)), key=len
    )


def zoo_shapes(folder: Path, file: str) -> dict[str, tuple[int, ...]]:
    """In the order of the file."""
    shards = sorted(folder.glob("*.safetensors"))
    if shards:
        return {
            name: tensor.shape
            for shard in shards
            for name, tensor in safefile.load(shard).tensors.items()
        }
    torch = pytest.importorskip("torch", reason="torch is not installed")
    try:
        root = torch.load(folder / file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        pytest.skip("a pickle that torch's safe reader refuses")
    return {name: tuple(value.shape) for name, value in state_dict(root).items()}


ENTRIES = sorted(ZOO.glob("*/facts.json"))


@needs_zoo
@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: path.parent.name)
def test_real_names_are_understood_or_refused(path: Path) -> None:
    facts = json.loads(path.read_text())
    shapes = zoo_shapes(path.parent, facts["file"])
    fields = facts["fields"]
    if facts["refuse"] and facts.get("visible_in_file") is False:
        pytest.skip("nothing in the file shows what is wrong with it")
    if facts["refuse"] or fields.get("cross_attention"):
        assert propose(shapes).dialect is None
        return
    given = given_roles(shapes)
    whole = [
        found
        for found in (fit(settle(one, Tensors(shapes)), shapes) for one in DIALECTS.values())
        if not found.problems
    ]
    for found in whole:
        known_roles = roles(found.dialect, shapes)
        assert {name: role for name, (role, _) in given.items()} == {
            n: role for n, (role, _) in known_roles.items()
        }
    dialect = propose(shapes).dialect
    assert dialect is not None
    sizes = fit(settle(dialect, Tensors(shapes)), shapes).sizes
    known = {
        axis: fields[name] for axis, name in FIELDS.items() if axis in sizes and axis in "vdf layer"
    }
    assert {axis: sizes[axis] for axis in known} == known
    assert sizes.get("t", 0) in (
        0,
        fields["context_length"],
        fields["context_length"] + 2,
    )  # OPT's table begins at 2
