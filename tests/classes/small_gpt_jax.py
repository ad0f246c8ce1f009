"""The GPT of `small_gpt` in plain JAX with stacked layers, in Linen, in NNX and in Equinox.

Each `NAME(state)` takes the torch state dict as numpy arrays, and returns (function, params).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.classes.small_gpt import SIZES

State = dict[str, np.ndarray]
LAYERS, HEADS, WIDTH = SIZES["layers"], SIZES["heads"], SIZES["width"]


def norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float = 1e-5) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + eps) * scale + bias


def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Causal attention of (B, T, N, H)."""
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) / q.shape[-1] ** 0.5
    visible = jnp.tri(q.shape[1], dtype=bool)
    mixed = jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(jnp.where(visible, scores, -1e30)), v)
    return mixed.reshape(*mixed.shape[:2], -1)


def plain(
    state: State, eps: float = 1e-5, bend: Callable[[jax.Array], jax.Array] = lambda x: x
) -> tuple[Any, Any]:
    """Layers stacked along a leading axis; q, k and v apart, with an axis of heads.

    `eps` is that of the final norm, and `bend` is applied to the MLP's hidden numbers of layer 1.
    """

    def stack(name: str) -> np.ndarray:
        return np.stack([state[f"h.{layer}.{name}"] for layer in range(LAYERS)])

    kernel = stack("c_attn.weight").reshape(LAYERS, 3, HEADS, -1, WIDTH).transpose(0, 1, 4, 2, 3)
    bias = stack("c_attn.bias").reshape(LAYERS, 3, HEADS, -1)
    attn = {name: {"w": kernel[:, i], "b": bias[:, i]} for i, name in enumerate("qkv")}
    blocks: dict[str, Any] = {
        "attn": {**attn, "out": (stack("c_proj.weight").mT, stack("c_proj.bias"))},
        "mlp": [(stack(f"{name}.weight").mT, stack(f"{name}.bias")) for name in ("up", "down")],
        "norms": [(stack(f"ln_{i}.weight"), stack(f"ln_{i}.bias")) for i in (1, 2)],
    }
    params = {
        "blocks": blocks,
        "tables": [state["wte.weight"], state["wpe.weight"]],
        "last": (state["ln_f.weight"], state["ln_f.bias"]),
        "head": state["lm_head.weight"].T,
    }

    def block(x: jax.Array, item: tuple[Any, jax.Array]) -> tuple[jax.Array, None]:
        p, layer = item
        y = norm(x, *p["norms"][0])
        parts = (
            jnp.einsum("btd,dnh->btnh", y, p["attn"][n]["w"]) + p["attn"][n]["b"] for n in "qkv"
        )
        w, b = p["attn"]["out"]
        x = x + attention(*parts) @ w + b
        (w, b), (down, last) = p["mlp"]
        hidden = norm(x, *p["norms"][1]) @ w + b
        hidden = jnp.where(layer == 1, bend(hidden), hidden)
        return x + jax.nn.relu(hidden) @ down + last, None

    def function(params: Any, tokens: jax.Array) -> jax.Array:
        tokens_table, places = params["tables"]
        x = tokens_table[tokens] + places[: tokens.shape[1]]
        x, _ = jax.lax.scan(block, x, (params["blocks"], jnp.arange(LAYERS)))
        return norm(x, *params["last"], eps=eps) @ params["head"]

    return function, params


class LinenGPT(linen.Module):
    @linen.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        def normed(x: jax.Array, name: str) -> Any:
            return linen.LayerNorm(epsilon=1e-5, name=name)(x)

        embed = linen.Embed(SIZES["vocabulary"], WIDTH, name="wte")
        place = linen.Embed(SIZES["context"], WIDTH, name="wpe")
        x = embed(tokens) + place(jnp.arange(tokens.shape[1]))
        for layer in range(LAYERS):
            y = linen.Dense(3 * WIDTH, name=f"attn_{layer}")(normed(x, f"before_{layer}"))
            parts = (p.reshape(*p.shape[:2], HEADS, -1) for p in jnp.split(y, 3, axis=-1))
            x = x + linen.Dense(WIDTH, name=f"proj_{layer}")(attention(*parts))
            y = linen.Dense(4 * WIDTH, name=f"fc_{layer}")(normed(x, f"after_{layer}"))
            x = x + linen.Dense(WIDTH, name=f"back_{layer}")(jax.nn.relu(y))
        return linen.Dense(SIZES["vocabulary"], use_bias=False, name="head")(normed(x, "final"))


def in_linen(state: State) -> tuple[Any, Any]:
    names = {"ln_1": "before", "c_attn": "attn", "c_proj": "proj", "ln_2": "after", "up": "fc"}
    params: dict[str, Any] = {
        "wte": {"embedding": state["wte.weight"]},
        "wpe": {"embedding": state["wpe.weight"]},
        "head": {"kernel": state["lm_head.weight"].T},
        "final": {"scale": state["ln_f.weight"], "bias": state["ln_f.bias"]},
    }
    for layer in range(LAYERS):
        for torch_name, name in {**names, "down": "back"}.items():
            weight, bias = (state[f"h.{layer}.{torch_name}.{each}"] for each in ("weight", "bias"))
            own = {"scale": weight} if weight.ndim == 1 else {"kernel": weight.T}
            params[f"{name}_{layer}"] = {**own, "bias": bias}
    module = LinenGPT()
    return lambda params, tokens: module.apply({"params": params}, tokens), params


class NnxGPT(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.wte = nnx.Embed(SIZES["vocabulary"], WIDTH, rngs=rngs)
        self.wpe = nnx.Embed(SIZES["context"], WIDTH, rngs=rngs)
        norms = {"rngs": rngs, "epsilon": 1e-5}
        self.first = nnx.List([nnx.LayerNorm(WIDTH, **norms) for _ in range(LAYERS)])
        self.attn = nnx.List([nnx.Linear(WIDTH, 3 * WIDTH, rngs=rngs) for _ in range(LAYERS)])
        self.proj = nnx.List([nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(LAYERS)])
        self.second = nnx.List([nnx.LayerNorm(WIDTH, **norms) for _ in range(LAYERS)])
        self.up = nnx.List([nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs) for _ in range(LAYERS)])
        self.down = nnx.List([nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs) for _ in range(LAYERS)])
        self.final = nnx.LayerNorm(WIDTH, **norms)
        self.head = nnx.Linear(WIDTH, SIZES["vocabulary"], use_bias=False, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        # nnx.Embed casts its table to the dtype that it was built with.
        x = self.wte.embedding[...][tokens] + self.wpe.embedding[...][: tokens.shape[1]]
        for i in range(LAYERS):
            y = jnp.split(self.attn[i](self.first[i](x)), 3, axis=-1)
            x = x + self.proj[i](attention(*(p.reshape(*p.shape[:2], HEADS, -1) for p in y)))
            x = x + self.down[i](jax.nn.relu(self.up[i](self.second[i](x))))
        return self.head(self.final(x))


def in_nnx(state: State) -> tuple[Any, Any]:
    model = NnxGPT()
    model.wte.embedding.set_value(jnp.asarray(state["wte.weight"]))
    model.wpe.embedding.set_value(jnp.asarray(state["wpe.weight"]))
    model.head.kernel.set_value(jnp.asarray(state["lm_head.weight"].T))
    pairs = {"ln_f": model.final}
    for i in range(LAYERS):
        parts = model.first, model.attn, model.proj, model.second, model.up, model.down
        names = "ln_1", "c_attn", "c_proj", "ln_2", "up", "down"
        pairs |= {f"h.{i}.{name}": part[i] for name, part in zip(names, parts, strict=True)}
    for name, part in pairs.items():
        weight = state[f"{name}.weight"]
        own = part.scale if weight.ndim == 1 else part.kernel
        own.set_value(jnp.asarray(weight.T))
        part.bias.set_value(jnp.asarray(state[f"{name}.bias"]))
    graph, params = nnx.split(model)
    return lambda params, tokens: nnx.merge(graph, params)(tokens), params


def in_equinox(state: State) -> tuple[Any, Any]:
    import equinox as eqx

    class Block(eqx.Module):
        ln_1: eqx.nn.LayerNorm
        ln_2: eqx.nn.LayerNorm
        c_attn: eqx.nn.Linear
        c_proj: eqx.nn.Linear
        up: eqx.nn.Linear
        down: eqx.nn.Linear

        def __call__(self, x: jax.Array) -> jax.Array:
            parts = jnp.split(jax.vmap(self.c_attn)(jax.vmap(self.ln_1)(x)), 3, axis=-1)
            heads = (part.reshape(1, len(x), HEADS, -1) for part in parts)
            x = x + jax.vmap(self.c_proj)(attention(*heads)[0])
            hidden = jax.vmap(self.up)(jax.vmap(self.ln_2)(x))
            return x + jax.vmap(self.down)(jax.nn.relu(hidden))

    class EquinoxGPT(eqx.Module):
        wte: eqx.nn.Embedding
        wpe: eqx.nn.Embedding
        h: list[Block]
        ln_f: eqx.nn.LayerNorm
        lm_head: eqx.nn.Linear

        def __call__(self, tokens: jax.Array) -> jax.Array:
            x = jax.vmap(self.wte)(tokens) + self.wpe.weight[: len(tokens)]
            for block in self.h:
                x = block(x)
            return jax.vmap(self.lm_head)(jax.vmap(self.ln_f)(x))

    key = jax.random.key(0)

    def linear(out: int, width: int = WIDTH, bias: bool = True) -> Any:
        return eqx.nn.Linear(width, out, use_bias=bias, key=key)

    blocks = [
        Block(
            eqx.nn.LayerNorm(WIDTH), eqx.nn.LayerNorm(WIDTH), linear(3 * WIDTH), linear(WIDTH),
            linear(4 * WIDTH), linear(WIDTH, 4 * WIDTH),
        )
        for _ in range(LAYERS)
    ]  # fmt: skip
    embeddings = (eqx.nn.Embedding(SIZES[n], WIDTH, key=key) for n in ("vocabulary", "context"))
    model = EquinoxGPT(
        *embeddings, blocks, eqx.nn.LayerNorm(WIDTH), linear(SIZES["vocabulary"], bias=False)
    )
    leaves, structure = jax.tree_util.tree_flatten_with_path(eqx.filter(model, eqx.is_array))
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    arrays = jax.tree_util.tree_unflatten(structure, [jnp.asarray(state[name]) for name in names])
    static = eqx.filter(model, eqx.is_array, inverse=True)
    return (lambda params, ids: jax.vmap(eqx.combine(params, static))(ids)), arrays
