"""Each dialect's rows against torch: wrong rows can round-trip bit for bit, and only running both models shows it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from convert.dialects import DIALECTS
from jaxgpt.config import ModelConfig
from jaxgpt.model import assemble
from jaxgpt.pytree import flatten
from tests.helpers import config_of, random_params, require_close

torch = pytest.importorskip("torch", reason="torch is not installed")
F = torch.nn.functional

Weights = dict[str, Any]
ACTIVATIONS = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


def attention(c: ModelConfig, q: Any, k: Any, v: Any) -> Any:
    """Queries, keys and values (B, T, heads * width), heads side by side."""
    heads = [x.unflatten(-1, (c.num_heads, -1)).transpose(1, 2) for x in (q, k, v)]
    return F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2)


class Names:
    """The tensor names of a dialect, written by hand a second time, in the way in which its class uses them."""

    def __init__(
        self,
        token: str,
        position: str,
        block: str,
        norms: str,
        mlp: str,
        out: str,
        final: str,
        head: str,
    ):
        self.token, self.position, self.block, self.final, self.head = (
            token,
            position,
            block,
            final,
            head,
        )
        self.norm1, self.norm2 = norms.split()
        self.up, self.down = mlp.split()
        self.out = out


NAMES = {
    "gpt": Names(
        "token_embedding.weight", "pos_embedding.weight", "transformer_blocks", "layer_norm_one layer_norm_two",
        "vanilla_nn.first_linear_layer vanilla_nn.second_linear_layer", "mhsa.compute", "layer_norm_three",
        "vocab_projection",
    ),
    "neetcode": Names(
        "word_embeddings.weight", "position_embeddings.weight", "transformer_blocks", "first_norm second_norm",
        "linear_network.up_projection linear_network.down_projection", "", "final_norm", "vocab_projection",
    ),
    "ng": Names(
        "token_embedding_table.weight", "position_embedding_table.weight", "blocks", "ln1 ln2", "ffwd.net.0 ffwd.net.2",
        "sa.proj", "ln_f", "lm_head",
    ),
    "nanogpt": Names(
        "transformer.wte.weight", "transformer.wpe.weight", "transformer.h", "ln_1 ln_2", "mlp.c_fc mlp.c_proj",
        "attn.c_proj", "transformer.ln_f", "lm_head",
    ),
    "mingpt-2020": Names(
        "tok_emb.weight", "pos_emb", "blocks", "ln1 ln2", "mlp.0 mlp.2", "attn.proj", "ln_f", "head",
    ),
    "raschka": Names(
        "tok_emb.weight", "pos_emb.weight", "trf_blocks", "norm1 norm2", "ff.layers.0 ff.layers.2", "att.out_proj",
        "final_norm", "out_head",
    ),
    "heads": Names(
        "token_embedding.weight", "position_embedding.weight", "blocks", "ln1 ln2", "ffn.net.0 ffn.net.2", "mha.proj",
        "ln_f", "lm_head",
    ),
    "separate": Names(
        "token_embedding.weight", "position_embedding.weight", "blocks", "ln1 ln2", "ffn.net.0 ffn.net.2",
        "attn.out_proj", "ln_f", "head",
    ),
    "fused": Names(
        "token_embedding.weight", "position_embedding.weight", "blocks", "ln1 ln2", "ff.net.0 ff.net.2", "attn.proj",
        "ln_f", "head",
    ),
}  # fmt: skip


def qkv_of(name: str, c: ModelConfig, w: Weights, block: str, x: Any) -> list[Any]:
    def by(prefix: str) -> Any:
        return F.linear(x, w[f"{prefix}.weight"], w.get(f"{prefix}.bias"))

    per_head = {
        "gpt": "mhsa.attention_heads.{}.{}_layer",
        "neetcode": "attention.att_heads.{}.{}_gen",
        "ng": "sa.heads.{}.{}",
        "heads": "mha.heads.{}.{}",
    }
    whole = {"mingpt-2020": "attn.{}", "raschka": "att.W_{}", "separate": "attn.{}"}
    parts = ("query", "key", "value")
    if name in per_head:
        heads = range(c.num_heads)
        return [
            torch.cat([by(f"{block}.{per_head[name].format(h, part)}") for h in heads], -1)
            for part in parts
        ]
    if name in whole:
        return [by(f"{block}.{whole[name].format(part)}") for part in parts]
    return list(by(f"{block}.attn.{'c_attn' if name == 'nanogpt' else 'qkv'}").chunk(3, dim=-1))


def forward(name: str, c: ModelConfig, w: Weights, tokens: Any) -> Any:
    n = NAMES[name]

    def norm(prefix: str, x: Any) -> Any:
        scale, bias = (
            next(w[f"{prefix}.{a}"] for a in pair if f"{prefix}.{a}" in w) for pair in WORDS
        )
        return F.layer_norm(x, (c.model_dim,), scale, bias, c.norm_eps)

    def linear(prefix: str, x: Any) -> Any:
        return F.linear(x, w[f"{prefix}.weight"], w.get(f"{prefix}.bias"))

    def mixed(block: str, x: Any) -> Any:
        y = attention(c, *qkv_of(name, c, w, block, x))
        return linear(f"{block}.{n.out}", y) if n.out else y

    def mlp(block: str, x: Any) -> Any:
        return linear(f"{block}.{n.down}", ACTIVATIONS[c.activation](linear(f"{block}.{n.up}", x)))

    x = w[n.token][tokens] + w[n.position].reshape(-1, c.model_dim)[: tokens.shape[1]]
    for block in (f"{n.block}.{layer}" for layer in range(c.num_blocks)):
        if c.norm == "pre":
            x = x + mixed(block, norm(f"{block}.{n.norm1}", x))
            x = x + mlp(block, norm(f"{block}.{n.norm2}", x))
        else:
            x = norm(f"{block}.{n.norm1}", x + mixed(block, x))
            x = norm(f"{block}.{n.norm2}", x + mlp(block, x))
    return linear(n.head, norm(n.final, x))


WORDS = (("weight", "scale"), ("bias", "shift"))
TWINS = {
    "freecodecamp": "ng",
    "build-nanogpt": "nanogpt",
    "mingpt": "nanogpt",
    "makemore": "nanogpt",
}


def both(name: str, run: Callable[[ModelConfig, Weights, Any], Any], tied: bool = False) -> None:
    """Logits of `run` on the tensors that this dialect writes, and of the model that they were written from."""
    from convert import to_torch

    usual = {
        field: value
        for field, value in DIALECTS[name].unsaid.items()
        if field not in ("final_norm", "positions")
    }
    config = ModelConfig(**{**vars(config_of(DIALECTS[name], tied)), **usual})
    params = random_params(config, np.dtype("float64"))
    flat = flatten(params)
    for path in flat:
        flat[path] *= 0.3  # so that no softmax is a choice of one
    weights = to_torch(params, config, name)
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, (2, config.context_length))
    with torch.no_grad():
        theirs = run(config, weights, torch.from_numpy(tokens))
    require_close(np.asarray(assemble(config, params)(tokens)), theirs.numpy(), 1e-12)


@pytest.mark.parametrize("name", [*NAMES, *TWINS])
def test_the_tensors_mean_what_their_class_takes_them_for(name: str) -> None:
    both(name, lambda c, w, tokens: forward(TWINS.get(name, name), c, w, tokens))


@pytest.mark.parametrize("name", ["torch-encoder", "torch-mha"])
def test_torchs_own_layers_take_the_tensors(name: str) -> None:
    def run(c: ModelConfig, w: Weights, tokens: Any) -> Any:
        layer = torch.nn.TransformerEncoderLayer(
            c.model_dim,
            c.num_heads,
            c.mlp_dim,
            0,
            c.activation,
            norm_first=c.norm == "pre",
            batch_first=True,
        )
        layers = (
            torch.nn.TransformerEncoder(layer, c.num_blocks, torch.nn.LayerNorm(c.model_dim), False)
            .double()
            .eval()
        )
        renamed = {
            "ffn.0": "linear1",
            "ffn.2": "linear2",
            "attn": "self_attn",
            "blocks": "layers",
            "ln_f": "norm",
        }
        inner = {key.removeprefix("encoder."): value for key, value in w.items()}
        if name == "torch-mha":
            for old, new in renamed.items():
                inner = {key.replace(old, new): value for key, value in inner.items()}
        outer = ("token_embedding", "position_embedding", "lm_head")
        layers.load_state_dict(
            {key: v for key, v in inner.items() if not key.startswith(outer)}, strict=True
        )
        x = w["token_embedding.weight"][tokens] + w["position_embedding.weight"]
        mask = torch.nn.Transformer.generate_square_subsequent_mask(
            tokens.shape[1], dtype=torch.float64
        )
        return F.linear(layers(x, mask, is_causal=True), w["lm_head.weight"], w["lm_head.bias"])

    both(name, run)


@pytest.mark.parametrize("name", ["gpt2", "gpt1", "opt"])
def test_transformers_take_the_tensors(name: str) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")

    def run(c: ModelConfig, w: Weights, tokens: Any) -> Any:
        sizes = {
            "vocab_size": c.vocab_size,
            "attn_implementation": "eager" if name == "gpt1" else "sdpa",
        }  # OPT rounds to float32 in the other one
        small = {
            "n_positions": c.context_length,
            "n_embd": c.model_dim,
            "n_layer": c.num_blocks,
            "n_head": c.num_heads,
        }
        if name == "opt":
            config = transformers.OPTConfig(
                hidden_size=c.model_dim, ffn_dim=c.mlp_dim, num_hidden_layers=c.num_blocks, dropout=0.0,
                num_attention_heads=c.num_heads, max_position_embeddings=c.context_length, pad_token_id=1,
                word_embed_proj_dim=c.model_dim, **sizes,
            )  # fmt: skip
            model = transformers.OPTForCausalLM(config)
        elif name == "gpt2":
            model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**small, **sizes))
        else:
            model = transformers.OpenAIGPTLMHeadModel(
                transformers.OpenAIGPTConfig(**small, **sizes)
            )
        model.double().eval().load_state_dict(w, strict=True)
        return model(tokens, attention_mask=torch.ones_like(tokens)).logits

    both(name, run, tied=True)


def test_an_axis_of_heads_and_matrices_that_lead_from_left_to_right() -> None:
    def norm(c: ModelConfig, w: Weights, name: str, x: Any) -> Any:
        return F.layer_norm(x, (c.model_dim,), w[f"{name}.w"], w[f"{name}.b"], c.norm_eps)

    def run(c: ModelConfig, w: Weights, tokens: Any) -> Any:
        x = w["embed.W_E"][tokens] + w["pos_embed.W_pos"]
        for block in (f"blocks.{layer}" for layer in range(c.num_blocks)):
            y = norm(c, w, f"{block}.ln1", x)
            heads = [
                torch.einsum("btd,hdk->bhtk", y, w[f"{block}.attn.W_{part}"])
                + w.get(f"{block}.attn.b_{part}", torch.zeros(c.num_heads, c.head_dim))[:, None]
                for part in "QKV"
            ]
            mixed = F.scaled_dot_product_attention(*heads, is_causal=True)
            out = torch.einsum("bhtk,hkd->btd", mixed, w[f"{block}.attn.W_O"])
            x = x + out + w[f"{block}.attn.b_O"]
            y = norm(c, w, f"{block}.ln2", x) @ w[f"{block}.mlp.W_in"] + w[f"{block}.mlp.b_in"]
            y = ACTIVATIONS[c.activation](y)
            x = x + y @ w[f"{block}.mlp.W_out"] + w[f"{block}.mlp.b_out"]
        return norm(c, w, "ln_final", x) @ w["unembed.W_U"] + w["unembed.b_U"]

    both("transformer-lens", run)
