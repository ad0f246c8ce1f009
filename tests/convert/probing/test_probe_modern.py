"""Open fields of modern decoders, trained here in torch, are settled or said to be open."""

import dataclasses
import functools
from typing import Any

import pytest

import convert
from convert.probing.ranking import Ranking
from jaxgpt.model.position_spec import alibi_slopes
from tests.convert.probing.trained_on_text import CHARACTERS, CONTEXT, trained_on_text
from tests.helpers import TEXT

torch = pytest.importorskip("torch", reason="torch is not installed")
F = torch.nn.functional
nn = torch.nn


WIDTH, HEADS = 16, 4


@dataclasses.dataclass(frozen=True)
class Form:
    """What no tensor of a file shows."""

    positions: str = "rotary"
    rotary_layout: str = "half"
    rotary_theta: float = 10000.0
    embedding_scale: float = 1.0
    logit_softcap: float | None = None
    kv_heads: int = 2  # shown by the shapes, once the number of heads is said


class Block(nn.Module):
    def __init__(self, form: Form):
        super().__init__()
        keys = WIDTH * form.kv_heads // HEADS
        linear = functools.partial(nn.Linear, bias=False)
        attention = {"q_proj": WIDTH, "k_proj": keys, "v_proj": keys, "o_proj": WIDTH}
        self.self_attn = nn.ModuleDict({name: linear(WIDTH, n) for name, n in attention.items()})
        sizes = {"gate_proj": (WIDTH, 40), "up_proj": (WIDTH, 40), "down_proj": (40, WIDTH)}
        self.mlp = nn.ModuleDict({name: linear(*size) for name, size in sizes.items()})
        self.input_layernorm = nn.RMSNorm(WIDTH, eps=1e-6)
        self.post_attention_layernorm = nn.RMSNorm(WIDTH, eps=1e-6)
        self.form = form

    def forward(self, x: Any) -> Any:
        x = x + self.attend(self.input_layernorm(x))
        y = self.post_attention_layernorm(x)
        hidden = F.silu(self.mlp["gate_proj"](y)) * self.mlp["up_proj"](y)
        return x + self.mlp["down_proj"](hidden)

    def attend(self, x: Any) -> Any:
        q, k, v = (
            self.self_attn[name](x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for name, heads in (
                ("q_proj", HEADS), ("k_proj", self.form.kv_heads), ("v_proj", self.form.kv_heads),
            )
        )  # fmt: skip
        k, v = (part.repeat_interleave(HEADS // self.form.kv_heads, 1) for part in (k, v))
        if self.form.positions == "rotary":
            q, k = self.rotated(q), self.rotated(k)
        distance = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
        bias = torch.where(distance < 0, -torch.inf, 0.0).expand(HEADS, -1, -1)
        if self.form.positions == "alibi":
            bias = bias - torch.tensor(alibi_slopes(HEADS))[:, None, None] * distance
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.self_attn["o_proj"](mixed.transpose(1, 2).flatten(2))

    def rotated(self, x: Any) -> Any:
        width = x.shape[-1]
        shape = (2, -1) if self.form.rotary_layout == "half" else (-1, 2)
        first, second = x.unflatten(-1, shape).unbind(-2 if shape[0] == 2 else -1)
        turns = self.form.rotary_theta ** (-torch.arange(0, width, 2) / width)
        angles = torch.arange(x.shape[-2])[:, None] * turns
        cos, sin = angles.cos(), angles.sin()
        pair = first * cos - second * sin, first * sin + second * cos
        return torch.stack(pair, -2 if shape[0] == 2 else -1).flatten(-2)


class Decoder(nn.Module):
    """A model with the names of Hugging Face's Llama, in any form that its files do not show."""

    def __init__(self, form: Form):
        super().__init__()
        self.embed_tokens = nn.Embedding(len(CHARACTERS), WIDTH)
        self.layers = nn.Sequential(Block(form), Block(form))
        self.norm = nn.RMSNorm(WIDTH, eps=1e-6)
        self.lm_head = nn.Linear(WIDTH, len(CHARACTERS), bias=False)
        self.form = form

    def forward(self, ids: Any) -> Any:
        x = self.layers(self.embed_tokens(ids) * self.form.embedding_scale)
        logits, cap = self.lm_head(self.norm(x)), self.form.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)


@functools.cache
def trained(form: Form) -> dict[str, Any]:
    """The state dict of a model trained on TEXT."""
    model = trained_on_text(lambda: Decoder(form))
    return {name: value.detach() for name, value in model.state_dict().items()}


# The fields of the trained models that a file leaves open.
TRUTH = {
    "num_heads": HEADS, "norm": "pre", "final_norm": True, "residual": "sequential",
    "norm_kind": "rms", "norm_unit_offset": False, "activation": "silu", "norm_eps": 1e-6,
    "attention_scale": "head_dim", "attention_scale_by_layer": False, "attention_softcap": None,
    "logit_scale": 1.0, "rotary_fraction": 1.0, "sinusoidal_layout": "interleaved",
    "context_length": CONTEXT,
}  # fmt: skip
FORM_FIELDS = ("positions", "rotary_layout", "rotary_theta", "embedding_scale", "logit_softcap")


def probed(form: Form, *names: str) -> Ranking:
    """The ranking where only the fields in `names` are open; what it claims is right."""
    truth = TRUTH | {field: getattr(form, field) for field in FORM_FIELDS}
    given = {field: value for field, value in truth.items() if field not in names}
    ranking = convert.probe(trained(form), text=TEXT, **given)
    assert ranking.fits, ranking.improvements
    assert ranking.options.keys() == {*names}
    for field, value in ranking.settled.items():
        assert value == truth[field], field
    for field, values in ranking.unsettled.items():
        assert truth[field] in values, field
    return ranking


def test_a_file_with_the_names_of_llama_is_settled() -> None:
    names = ("num_heads", "positions", "rotary_layout", "norm_kind", "norm_unit_offset")
    ranking = probed(Form(), *names)
    assert ranking.options["num_heads"] == (2, 4, 8)  # for two keys, and heads that rotate in pairs
    assert ranking.settled.keys() == {*names}


def test_interleaved_rotary_positions_are_settled() -> None:
    """Their base, 50 times the usual one, is within chance in a context of 24 tokens."""
    form = Form(rotary_layout="interleaved", rotary_theta=500000.0)
    ranking = probed(form, "positions", "rotary_layout", "rotary_theta", "sinusoidal_layout")
    assert ranking.settled == {"positions": "rotary", "rotary_layout": "interleaved"}
    assert ranking.unsettled.keys() == {"rotary_theta"}


def test_fields_of_other_positions_are_not_varied() -> None:
    form = Form(positions="alibi")
    ranking = probed(form, "positions", "rotary_layout", "sinusoidal_layout", "rotary_theta")
    assert (ranking.settled, ranking.unsettled) == ({"positions": "alibi"}, {})
    fields = [tuple(sorted(row.fields.items())) for row in ranking.rows]
    assert len(fields) == len({*fields}) == 2 * 1 + 2 + 1 + 1
    for row in ranking.rows:
        kind = row.fields["positions"]
        assert kind == "rotary" or not row.fields.keys() & {"rotary_layout", "rotary_theta"}
        assert kind == "sinusoidal" or "sinusoidal_layout" not in row.fields


def test_bounds_and_scales_of_logits_are_right_or_open() -> None:
    ranking = probed(Form(logit_softcap=15.0), "logit_softcap", "attention_softcap", "logit_scale")
    assert ranking.settled == {"logit_scale": 1.0}


def test_scaled_embeddings_are_settled() -> None:
    ranking = probed(Form(embedding_scale=WIDTH**0.5), "embedding_scale")
    assert ranking.settled == {"embedding_scale": 4.0}
    assert ranking.line == "--set embedding_scale=4.0"


def test_another_scale_of_embeddings_fits_no_candidate() -> None:
    form = Form(embedding_scale=3.0)
    given = {**TRUTH, "positions": "rotary", "rotary_layout": "half", "rotary_theta": 10000.0}
    ranking = convert.probe(trained(form), text=TEXT, **given, logit_softcap=None)
    assert not ranking.fits
    assert "its token embeddings a quarter smaller" in ranking.improvements
