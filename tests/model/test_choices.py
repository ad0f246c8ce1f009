"""Every choice that ModelConfig has, against the same model in plain torch: its logits, and a step of training."""

import types
import typing
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgpt.config import Config, DataConfig, ModelConfig, OptimConfig, RunConfig
from jaxgpt.model import assemble, exactly, params_of
from jaxgpt.pytree import Tree, flatten
from jaxgpt.training.optimizer import make_optimizer
from tests.helpers import CONFIGS, PRIMES, random_model

IDS = np.random.default_rng(0).integers(0, PRIMES["vocab_size"], (4, PRIMES["context_length"] + 1))


def plain_torch(c: ModelConfig, p: dict[str, Any], ids: Any) -> Any:
    """Logits; `p` is params by path."""
    import torch
    from torch.nn import functional

    length = ids.shape[1]

    def norm(x: Any, name: str, layer: Any = ...) -> Any:
        bias = p[f"{name}/bias"][layer] if c.norm_bias else None
        return functional.layer_norm(x, (c.model_dim,), p[f"{name}/scale"][layer], bias, c.norm_eps)

    def linear(x: Any, name: str, layer: int, bias: bool, axes: int = 1) -> Any:
        y = torch.tensordot(x, p[f"blocks/{name}/kernel"][layer], axes)
        return y + p[f"blocks/{name}/bias"][layer] if bias else y

    def attention(x: Any, layer: int) -> Any:
        q, k, v = linear(x, "attn/qkv", layer, c.qkv_bias).permute(3, 0, 2, 1, 4)
        scores = q @ k.transpose(2, 3)
        if c.attention_scale != "none":
            scores = (
                scores / (c.head_dim if c.attention_scale == "head_dim" else c.model_dim) ** 0.5
            )
        if c.attention_scale_by_layer:
            scores = scores / (layer + 1)
        future = torch.ones(length, length).triu(diagonal=1).bool()
        mixed = (scores.masked_fill(future, -torch.inf).softmax(dim=-1) @ v).transpose(1, 2)
        return (
            linear(mixed, "attn/out", layer, c.attention_out_bias, axes=2)
            if c.attention_out
            else mixed.flatten(2)
        )

    def mlp(x: Any, layer: int) -> Any:
        up = linear(x, "mlp/up", layer, c.mlp_bias)
        tanh = {"approximate": "tanh"} if c.activation == "gelu_tanh" else {}
        active = functional.relu(up) if c.activation == "relu" else functional.gelu(up, **tanh)
        return linear(active, "mlp/down", layer, c.mlp_bias)

    def positions() -> Any:
        if c.positions == "learned" or c.positions_stored:
            return p["pos_embedding/embedding"][c.positions_offset :][:length]
        i = torch.arange(c.model_dim, dtype=torch.float64)
        angles = torch.arange(length)[:, None] / 10000 ** (2 * (i // 2) / c.model_dim)
        return torch.where(i % 2 == 0, angles.sin(), angles.cos())

    x = p["token_embedding/embedding"][ids] + positions()
    for layer in range(c.num_blocks):
        for branch, name in ((attention, "blocks/norm1"), (mlp, "blocks/norm2")):
            if c.norm == "post":
                x = norm(x + branch(x, layer), name, layer)
            else:
                normal = norm(x, name, layer)
                x = (normal if c.norm == "residual" else x) + branch(normal, layer)
    x = norm(x, "final_norm") if c.final_norm is True else x
    logits = x @ (p["token_embedding/embedding"].T if c.tied else p["head/kernel"])
    return logits + p["head/bias"] if c.head_bias else logits


@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)
def test_logits_and_a_training_step_are_those_of_plain_torch(fields: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model = random_model(**fields)
    # With a large eps an update shows how large the gradient is, and not only its sign.
    optim = OptimConfig(0.1, "constant", 0, eps=0.1, weight_decay=0.1, decay="all", clip_norm=0.0)
    optimizer = make_optimizer(
        Config(DataConfig("x"), RunConfig("x"), model=model.config, optim=optim)
    )

    @jax.jit
    def step(params: Tree, ids: jax.Array) -> tuple[jax.Array, Tree]:
        def loss(params: Tree) -> tuple[jax.Array, jax.Array]:
            logits = assemble(model.config, params).logits(ids[:, :-1])
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, ids[:, 1:]
            ).mean(), logits

        gradients, logits = jax.grad(loss, has_aux=True)(params)
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        return logits, optax.apply_updates(params, updates)

    with exactly(model.dtype):
        logits, after = step(params_of(model), jnp.asarray(IDS))
    before = {path: np.array(leaf) for path, leaf in flatten(params_of(model)).items()}
    theirs = {path: torch.tensor(leaf, requires_grad=True) for path, leaf in before.items()}
    if model.config.positions_stored:
        theirs["pos_embedding/embedding"].requires_grad_(False)
    expected = plain_torch(model.config, theirs, torch.from_numpy(IDS[:, :-1]))
    largest = expected.detach().abs().max().item()
    np.testing.assert_allclose(logits, expected.detach(), rtol=0, atol=1e-12 * largest)
    torch.nn.functional.cross_entropy(
        expected.flatten(0, 1), torch.from_numpy(IDS[:, 1:]).flatten()
    ).backward()
    torch.optim.AdamW(theirs.values(), lr=0.1, eps=0.1, weight_decay=0.1).step()
    for path, leaf in flatten(after).items():
        np.testing.assert_allclose(leaf, theirs[path].detach(), rtol=0, atol=1e-8, err_msg=path)
        assert (leaf.tobytes() != before[path].tobytes()) == (theirs[path].grad is not None), path


def choices(hint: Any) -> set[Any]:
    """All values of a field that has a few."""
    if hint is bool:
        return {True, False}
    if typing.get_origin(hint) is types.UnionType:
        return set().union(*map(choices, typing.get_args(hint)))
    return set(typing.get_args(hint)) if typing.get_origin(hint) is Literal else set()


def test_no_choice_is_left_out() -> None:
    configs = [
        vars(ModelConfig(**{**PRIMES, "dropout": 0.0, **fields})) for fields in CONFIGS.values()
    ]
    fields = typing.get_type_hints(ModelConfig)
    for name, hint in fields.items():
        made = {config[name] for config in configs}
        assert made >= choices(hint), name
        assert len(made) > 1 or name in {*PRIMES, "dropout"}, name
