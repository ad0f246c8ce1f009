"""The encoder-decoder against torch.nn.Transformer in float64: logits, gradients, padding, and causality."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgpt
from jaxgpt.errors import UserError
from jaxgpt.model import assemble, build, exactly, params_of
from jaxgpt.seq2seq_config import Seq2SeqConfig

SIZES = {
    "model_dim": 24,
    "num_heads": 3,
    "mlp_dim": 40,
    "qkv_bias": True,
    "positions": "learned",
    "dropout": 0.0,
}
KINDS = [("pre", "relu"), ("pre", "gelu"), ("post", "relu"), ("post", "gelu")]


def make(norm: str, activation: str) -> tuple[Any, Callable[..., Any]]:
    """A torch model around nn.Transformer, and a function that converts its tensors to ours."""
    import torch

    class Torch(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.source, self.target = torch.nn.Embedding(13, 24), torch.nn.Embedding(17, 24)
            self.source_at, self.target_at = torch.nn.Embedding(9, 24), torch.nn.Embedding(8, 24)
            self.body = torch.nn.Transformer(
                24, 3, 2, 3, 40, 0.0, activation, batch_first=True, norm_first=norm == "pre"
            )
            self.head = torch.nn.Linear(24, 17)

        def forward(self, source: Any, tokens: Any, padding: Any) -> Any:
            time = tokens.shape[1]
            hidden = self.body(
                self.source(source) + self.source_at.weight[: source.shape[1]],
                self.target(tokens) + self.target_at.weight[:time],
                tgt_mask=torch.triu(torch.full((time, time), -torch.inf, dtype=torch.float64), 1),
                src_key_padding_mask=padding,
                memory_key_padding_mask=padding,
            )
            return self.head(hidden)

    torch.manual_seed(0)
    model = Torch().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model, lambda tensors: ours_of({k: np.asarray(v) for k, v in tensors.items()})


def stacked(tensors: dict[str, np.ndarray], prefix: str, layers: int) -> dict[str, Any]:
    """The blocks of one side, in our layout."""

    def each(name: str) -> np.ndarray:
        return np.stack([tensors[f"{prefix}.{i}.{name}"] for i in range(layers)])

    def attention(name: str) -> dict[str, Any]:
        kernel = each(f"{name}.in_proj_weight").reshape(layers, 3, 3, 8, 24)
        bias = each(f"{name}.in_proj_bias").reshape(layers, 3, 3, 8)
        out = each(f"{name}.out_proj.weight").reshape(layers, 24, 3, 8)
        return {
            "qkv": {"kernel": kernel.transpose(0, 4, 2, 1, 3), "bias": bias.swapaxes(1, 2)},
            "out": {"kernel": out.transpose(0, 2, 3, 1), "bias": each(f"{name}.out_proj.bias")},
        }

    def norm(name: str) -> dict[str, Any]:
        return {"scale": each(f"{name}.weight"), "bias": each(f"{name}.bias")}

    def linear(name: str) -> dict[str, Any]:
        return {"kernel": each(f"{name}.weight").swapaxes(1, 2), "bias": each(f"{name}.bias")}

    blocks = {
        "attn": attention("self_attn"),
        "mlp": {"up": linear("linear1"), "down": linear("linear2")},
        "norm1": norm("norm1"),
        "norm2": norm("norm2"),
    }
    if "decoder" in prefix:
        blocks |= {"cross_attn": attention("multihead_attn"), "cross_norm": norm("norm2")}
        blocks["norm2"] = norm("norm3")
    return blocks


def ours_of(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    sides = {}
    for side, table, layers in (("encoder", "source", 2), ("decoder", "target", 3)):
        sides[side] = {
            "token_embedding": {"embedding": tensors[f"{table}.weight"]},
            "pos_embedding": {"embedding": tensors[f"{table}_at.weight"]},
            "blocks": stacked(tensors, f"body.{side}.layers", layers),
            "final_norm": {
                "scale": tensors[f"body.{side}.norm.weight"],
                "bias": tensors[f"body.{side}.norm.bias"],
            },
        }
    sides["decoder"]["head"] = {"kernel": tensors["head.weight"].T, "bias": tensors["head.bias"]}
    return sides


def config_of(norm: str, activation: str) -> Seq2SeqConfig:
    common = {**SIZES, "norm": norm, "activation": activation}
    encoder = jaxgpt.ModelConfig(vocab_size=13, context_length=9, num_blocks=2, **common)
    return Seq2SeqConfig(
        encoder,
        jaxgpt.ModelConfig(
            vocab_size=17, context_length=8, num_blocks=3, cross_attention=True, **common
        ),
    )


def inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    mask = np.arange(9) < np.array([[9], [4], [1]])
    return rng.integers(13, size=(3, 9)), rng.integers(17, size=(3, 8)), mask


@pytest.mark.filterwarnings(
    "ignore:enable_nested_tensor is True"
)  # of torch, in its own constructor
@pytest.mark.parametrize(("norm", "activation"), KINDS)
def test_logits_and_gradients_are_those_of_torch(norm: str, activation: str) -> None:
    torch = pytest.importorskip("torch")
    theirs, translate = make(norm, activation)
    source, tokens, mask = inputs()
    expected = theirs(torch.tensor(source), torch.tensor(tokens), torch.tensor(~mask))
    loss = torch.nn.functional.cross_entropy(expected.flatten(0, 1), torch.tensor(tokens).flatten())
    loss.backward()
    expected = expected.detach()
    config = config_of(norm, activation)
    with exactly(jnp.dtype("float64")):
        params = jax.tree.map(
            jnp.asarray, translate({k: v.detach() for k, v in theirs.named_parameters()})
        )
        model = assemble(config, params)
        logits = model(source, tokens, mask)
        np.testing.assert_allclose(
            logits, expected, rtol=0, atol=1e-10 * float(abs(expected).max())
        )

        def loss_of(params: Any) -> jax.Array:
            logits = assemble(config, params).logits(*map(jnp.asarray, (source, tokens, mask)))
            logp = jax.nn.log_softmax(logits)
            return -jnp.take_along_axis(logp, jnp.asarray(tokens)[..., None], axis=-1).mean()

        gradients = jax.grad(loss_of)(params)
    wanted = translate({k: v.grad for k, v in theirs.named_parameters()})
    largest = max(abs(leaf).max() for leaf in jax.tree.leaves(wanted))
    for ours, torchs in zip(jax.tree.leaves(gradients), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, torchs, rtol=0, atol=1e-9 * largest)


def test_padding_and_later_tokens_have_no_influence() -> None:
    config = config_of("pre", "gelu")
    source, tokens, mask = (jnp.asarray(each) for each in inputs())
    model = build(config)

    def logit(source_bsd: jax.Array, target_btd: jax.Array) -> jax.Array:
        memory_bsd = model.encoder.run_over(source_bsd, mask)
        memory = model.decoder.memory(memory_bsd, mask)

        def apply(block: Any, layer: Any, x: Any, memory: Any) -> Any:
            return block(x, layer, jnp.arange(8), memory=memory)

        x, _ = model.decoder.run(target_btd, apply, memory)
        return model.decoder.read_out(x)[:, 3].sum()

    embedded = model.embed_source(source), model.decoder.embed(tokens)
    by_source, by_target = jax.grad(logit, argnums=(0, 1))(*embedded)
    seen = np.asarray(abs(by_source).max(axis=-1) > 0)
    np.testing.assert_array_equal(seen, np.asarray(mask))
    seen = np.asarray(abs(by_target).max(axis=-1) > 0)
    np.testing.assert_array_equal(seen, np.broadcast_to(np.arange(8) <= 3, (3, 8)))


def test_a_shared_embedding_is_one_parameter() -> None:
    config = config_of("pre", "gelu")
    decoder = dataclasses.replace(config.decoder, vocab_size=13, tied=True)
    encoder = dataclasses.replace(config.encoder, shares_embedding=True)
    params = params_of(build(Seq2SeqConfig(encoder, decoder)))
    assert "token_embedding" not in params["encoder"]
    assert "kernel" not in params["decoder"]["head"]


def test_a_decoder_takes_an_external_memory() -> None:
    config = config_of("pre", "gelu").decoder
    model, tokens = build(config), inputs()[1]
    memory = np.random.default_rng(2).normal(size=(3, 5, 24)).astype("float32")
    mask = np.arange(5) < np.array([[5], [2], [4]])
    logits = model(tokens, memory=memory, memory_mask=mask)
    changed = np.where(mask[..., None], memory, 7)
    np.testing.assert_array_equal(logits, model(tokens, memory=changed, memory_mask=mask))
    assert abs(np.asarray(logits - model(tokens, memory=memory))).max() > 1e-6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pair, decoder: decoder(np.zeros((1, 3), int)), "call model.tokens, memory=array"),
        (lambda pair, decoder: decoder(np.zeros((1, 3), int), memory=np.zeros((1, 4, 5))), "length, 24"),
        (lambda pair, decoder: pair(np.zeros((1, 10), int), np.zeros((1, 3), int)), "context length 9"),
        (lambda pair, decoder: pair(np.full((1, 3), 13), np.zeros((1, 3), int)), "vocabulary of 13"),
        (lambda pair, decoder: pair(np.zeros((2, 3), int), np.zeros((1, 3), int)), "1 rows"),
        (
            lambda pair, decoder: pair(np.zeros((1, 3), int), np.zeros((1, 3), int), np.zeros((1, 3), bool)),
            "Row 0 of the mask is all false",
        ),
        (lambda pair, decoder: jaxgpt.GPT(pair.config.encoder)(np.zeros((1, 3), int), memory=0), "takes no memory"),
        (lambda pair, decoder: jaxgpt.Seq2Seq(decoder.config, decoder.config), "field of the decoder"),
        (lambda pair, decoder: jaxgpt.Seq2Seq(pair.config.encoder, pair.config.encoder), "needs cross_attention"),
    ],
)  # fmt: skip
def test_invalid_input_is_refused(call: Callable[..., Any], message: str) -> None:
    config = config_of("pre", "gelu")
    with pytest.raises(UserError, match=message):
        call(build(config), build(config.decoder))
