import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.model import GPT, abstract_params, assemble, params_of
from jaxgpt.model.block import dropout
from jaxgpt.model.positions import sinusoids
from jaxgpt.pytree import flatten
from jaxgpt.storage.model_directory import to_device

SMALL = ModelConfig(
    vocab_size=23, context_length=11, model_dim=14, num_blocks=3, num_heads=2, mlp_dim=19
)


def tokens(config: ModelConfig, batch: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(
        0, config.vocab_size, (batch, config.context_length)
    )


def test_splitting_and_assembling_is_identity() -> None:
    model = GPT(SMALL, seed=3)
    again = assemble(SMALL, params_of(model))
    np.testing.assert_array_equal(model(tokens(SMALL)), again(tokens(SMALL)))
    assert jax.tree.map(jnp.shape, params_of(model)) == jax.tree.map(
        jnp.shape, abstract_params(SMALL)
    )


def test_wrong_parameters_are_refused() -> None:
    params = params_of(GPT(SMALL))
    params["head"]["kernel"] = params["head"]["kernel"].T
    params["extra"] = jnp.zeros(3)
    del params["final_norm"]["bias"]
    with pytest.raises(
        UserError,
        match=r"final_norm/bias is missing; extra is not expected; head/kernel is \(23, 14\)",
    ):
        assemble(SMALL, params)


def test_layers_start_different_and_depend_on_the_seed() -> None:
    up = params_of(GPT(SMALL, seed=1))["blocks"]["mlp"]["up"]["kernel"]
    assert not np.allclose(up[0], up[1])
    np.testing.assert_array_equal(
        up, params_of(GPT(SMALL, seed=1))["blocks"]["mlp"]["up"]["kernel"]
    )
    assert not np.allclose(up, params_of(GPT(SMALL, seed=2))["blocks"]["mlp"]["up"]["kernel"])


@pytest.mark.parametrize("norm", ["pre", "post", "residual", "output"])
def test_no_position_sees_the_future(norm: str) -> None:
    """The loss at t has no gradient with respect to later inputs, and some for every earlier one."""
    config = ModelConfig(**{**vars(SMALL), "norm": norm})
    model = GPT(config)
    ids = jnp.asarray(tokens(config, batch=1))

    def loss_at(t: int, shift: jax.Array) -> jax.Array:
        embedded = model.embed(ids) + shift
        positions = jnp.arange(config.context_length)
        x, _ = model.run(embedded, lambda block, layer, x, _: block(x, layer, positions))
        logits = model.head(model.normalise(x), model.token_embedding.embedding[...])
        return -jax.nn.log_softmax(logits)[0, t, 5]

    for t in (0, 4, config.context_length - 1):
        gradient = jax.grad(lambda shift, t=t: loss_at(t, shift))(
            jnp.zeros((1, config.context_length, 14))
        )
        touched = np.abs(gradient[0]).max(axis=-1)
        assert not touched[t + 1 :].any()
        assert (touched[: t + 1] > 0).all()


def test_states_end_in_the_same_logits() -> None:
    model = GPT(SMALL)
    states = model.states(jnp.asarray(tokens(SMALL)))
    np.testing.assert_array_equal(states.logits, model.logits(jnp.asarray(tokens(SMALL))))
    assert states.blocks.shape == (3, 2, 11, 14)


def test_dropout_is_off_without_a_key_and_differs_with_each_key() -> None:
    model, ids = GPT(SMALL), jnp.asarray(tokens(SMALL))
    plain = model.logits(ids)
    dropped = [model.logits(ids, jax.random.key(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(plain, model.logits(ids))
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert np.abs(plain - dropped[0]).max() > 1e-3
    assert np.abs(dropped[2] - dropped[0]).max() > 1e-3


@pytest.mark.parametrize("norm", ["pre", "post", "residual", "output"])
def test_dropout_reaches_both_branches_of_a_block(norm: str) -> None:
    """With one branch zero, the output still differs from seed to seed because of the other."""
    config = ModelConfig(**{**vars(SMALL), "norm": norm})
    params, ids = params_of(GPT(config)), jnp.asarray(tokens(config))
    run = jax.jit(lambda params, seed: assemble(config, params).logits(ids, jax.random.key(seed)))
    for part, matrix in (("attn", "out"), ("mlp", "down")):
        kernel = params["blocks"][part][matrix]["kernel"]
        params["blocks"][part][matrix]["kernel"] = 0 * kernel
        assert np.abs(run(params, 0) - run(params, 1)).max() > 1e-4
        params["blocks"][part][matrix]["kernel"] = kernel


def test_dropout_keeps_the_mean_and_drops_its_share() -> None:
    x = dropout(jnp.ones((1000, 100)), 0.2, jax.random.key(0))
    assert abs(float((x == 0).mean()) - 0.2) < 0.005
    assert abs(float(x.mean()) - 1) < 0.005


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_it_computes_in_the_dtype_of_its_parameters(dtype: str) -> None:
    params = params_of(GPT(SMALL))
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: x.astype(dtype), params)
    logits = assemble(SMALL, params)(tokens(SMALL))
    assert logits.dtype == dtype
    assert (
        np.abs(np.asarray(logits, np.float64) - np.asarray(GPT(SMALL)(tokens(SMALL)))).max() < 0.01
    )


def test_mixed_dtypes_compute_in_the_widest() -> None:
    params = params_of(GPT(SMALL))
    plain = GPT(SMALL)(tokens(SMALL))
    params["blocks"]["mlp"] = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16), params["blocks"]["mlp"]
    )
    mixed = assemble(SMALL, params)(tokens(SMALL))
    assert mixed.dtype == jnp.float32
    assert np.abs(mixed - plain).max() < 0.01


def test_an_unused_final_norm_is_stored_but_not_applied() -> None:
    config = ModelConfig(**{**vars(SMALL), "final_norm": "unused"})
    params = params_of(GPT(config))
    before = assemble(config, params)(tokens(config))
    params["final_norm"]["scale"] = params["final_norm"]["scale"] * 7
    np.testing.assert_array_equal(before, assemble(config, params)(tokens(config)))


def test_attention_scales() -> None:
    """Each scale equals scaling the query matrices of the unscaled model by hand."""
    plain = ModelConfig(**{**vars(SMALL), "attention_scale": "none"})
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params_of(GPT(plain)))
    kernel = params["blocks"]["attn"]["qkv"]["kernel"]
    kernel[:, :, :, 0] *= 50  # attention must matter

    def logits(config: ModelConfig, factors: list[float]) -> np.ndarray:
        scaled = kernel.copy()
        scaled[:, :, :, 0] *= np.reshape(factors, (3, 1, 1, 1))
        attn = {**params["blocks"]["attn"], "qkv": {"kernel": scaled}}
        model = assemble(
            config, to_device({**params, "blocks": {**params["blocks"], "attn": attn}})
        )
        return np.asarray(model(tokens(plain)))

    for fields, factors in [
        ({"attention_scale": "head_dim"}, [7**-0.5] * 3),
        ({"attention_scale": "model_dim"}, [14**-0.5] * 3),
        (
            {"attention_scale": "head_dim", "attention_scale_by_layer": True},
            [7**-0.5 / n for n in (1, 2, 3)],
        ),
    ]:
        by_field = logits(ModelConfig(**{**vars(plain), **fields}), [1.0] * 3)
        np.testing.assert_allclose(by_field, logits(plain, factors), rtol=0, atol=1e-12)
        assert np.abs(by_field - logits(plain, [1.0] * 3)).max() > 1e-4


def test_sinusoids_against_their_definition() -> None:
    table = sinusoids(9, 7)
    for p in range(9):
        for i in range(7):
            angle = p / 10000 ** (2 * (i // 2) / 7)
            assert table[p, i] == pytest.approx(
                np.cos(angle) if i % 2 else np.sin(angle), abs=1e-12
            )
    config = ModelConfig(**{**vars(SMALL), "positions": "sinusoidal"})
    assert "pos_embedding/embedding" not in flatten(abstract_params(config))
    assert GPT(config)(tokens(config)).shape == (2, 11, 23)


@pytest.mark.parametrize("offset", [0, 4])
def test_a_stored_table_starts_as_the_sinusoids(offset: int) -> None:
    """With an offset, position 0 is not at the sinusoids' beginning; without one, nothing tells it from a computed
    table."""
    stored = {"positions": "sinusoidal", "positions_stored": True, "positions_offset": offset}
    config = ModelConfig(**{**vars(SMALL), **stored})
    model = GPT(config)
    table = params_of(model)["pos_embedding"]["embedding"]
    np.testing.assert_array_equal(table, sinusoids(11 + offset, 14).astype(np.float32))
    ids = jnp.asarray(tokens(config))
    params = {name: value for name, value in params_of(model).items() if name != "pos_embedding"}
    computed = assemble(ModelConfig(**{**vars(SMALL), "positions": "sinusoidal"}), params)
    differs = model.embed(ids) - computed.embed(ids)
    np.testing.assert_allclose(differs[0], table[offset:] - table[:11], rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("bias", [True, False])
def test_blocks_against_torchs_own_encoder_layer(norm: str, activation: str, bias: bool) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.manual_seed(0)
    layers = [
        torch.nn.TransformerEncoderLayer(
            14,
            2,
            19,
            activation=activation,
            norm_first=norm == "pre",
            bias=bias,
            batch_first=True,
            dtype=torch.float64,
        ).eval()
        for _ in range(3)
    ]
    for layer in layers:
        for value in layer.parameters():
            torch.nn.init.normal_(value, std=0.4)
    biases = dict.fromkeys(("qkv_bias", "attention_out_bias", "mlp_bias", "norm_bias"), bias)
    config = ModelConfig(
        **{**vars(SMALL), "norm": norm, "activation": activation, "final_norm": False, **biases}
    )
    state = [
        {name: value.detach().numpy() for name, value in layer.named_parameters()}
        for layer in layers
    ]

    def stack(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return np.stack([s[name].T.reshape(shape) for s in state])

    def leaf(kernel: np.ndarray, bias_name: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        return {"kernel": kernel, **({"bias": stack(bias_name, shape)} if bias else {})}

    def norm_leaf(name: str) -> dict[str, np.ndarray]:
        return {
            "scale": stack(f"{name}.weight", (14,)),
            **({"bias": stack(f"{name}.bias", (14,))} if bias else {}),
        }

    thirds = np.stack([s["self_attn.in_proj_weight"].T.reshape(14, 3, 2, 7) for s in state])
    qkv = {"kernel": thirds.swapaxes(2, 3)}
    if bias:
        biases = np.stack([s["self_attn.in_proj_bias"].reshape(3, 2, 7) for s in state])
        qkv["bias"] = biases.swapaxes(1, 2)
    attn = {"qkv": qkv}
    attn["out"] = leaf(
        stack("self_attn.out_proj.weight", (2, 7, 14)), "self_attn.out_proj.bias", (14,)
    )
    blocks = {
        "attn": attn,
        "mlp": {
            "up": leaf(stack("linear1.weight", (14, 19)), "linear1.bias", (19,)),
            "down": leaf(stack("linear2.weight", (19, 14)), "linear2.bias", (14,)),
        },
        "norm1": norm_leaf("norm1"),
        "norm2": norm_leaf("norm2"),
    }
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: np.asarray(x, np.float64), params_of(GPT(config)))
        model = assemble(config, jax.tree.map(jnp.asarray, {**params, "blocks": blocks}))
        states = model.states(jnp.asarray(tokens(config)))
    x = torch.from_numpy(np.asarray(states.embedding).copy())
    future = torch.nn.Transformer.generate_square_subsequent_mask(11, dtype=torch.float64)
    for layer, ours in zip(layers, states.blocks, strict=True):
        x = layer(x, src_mask=future, is_causal=True)
        np.testing.assert_allclose(ours, x.detach().numpy(), rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (
            [[], [1]],
            r"Tokens must be whole numbers of shape \(batch, time\), but are \[\[\], \[1\]\]",
        ),
        ([[0, 1, 23]], "Token id 23 at row 0, position 2 lies outside the vocabulary of 23"),
        ([[0, 1], [-1, 2]], "Token id -1 at row 1, position 0"),
        ([[0] * 12], "A sequence of 12 tokens does not fit the context length 11"),
        ([[]], "whole numbers|0 tokens"),
        ([0, 1], r"shape \(batch, time\)"),
        ([[0.5]], "must be whole numbers"),
    ],
)
def test_wrong_ids_are_refused_at_the_boundary(ids: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        GPT(SMALL)(ids)


def test_a_choice_that_does_not_exist_is_refused() -> None:
    with pytest.raises(
        UserError, match="norm takes 'pre' or 'post' or 'residual' or 'output', but"
    ):
        ModelConfig(norm="pree")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="final_norm takes true, false or 'unused', but got 'no'"):
        ModelConfig(final_norm="no")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="vocab_size is 0: say how many token ids"):
        GPT(ModelConfig())
