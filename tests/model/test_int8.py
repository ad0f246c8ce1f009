"""Kernels in int8: how far they are rounded, and that nothing else is."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgpt
from jaxgpt.errors import UserError
from jaxgpt.generation.weights import Weights
from jaxgpt.model import GPT, Seq2Seq, assemble, exactly, params_of
from jaxgpt.model.int8 import LARGEST, Int8Kernel
from jaxgpt.model.matrices import KERNELS
from jaxgpt.pytree import flatten, unflatten
from tests.helpers import CONFIGS, random_model, random_pair, require_close

RANDOM = np.random.default_rng(0)


def rounded(kernel: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """`kernel` rounded to 127 steps up to the largest of its elements over `axes`."""
    step = np.abs(kernel).max(axis=axes, keepdims=True) / 127
    return np.round(kernel / step) * step


def with_rounded_kernels(model: GPT | Seq2Seq) -> Any:
    """The model that `to_int8` should equal, with kernels in floating point."""
    params: dict[str, Any] = {}
    for path, leaf in flatten(params_of(model)).items():
        *parents, name = path.split("/")
        value = np.asarray(leaf)
        if name == "kernel":
            axes = KERNELS[parents[-1]].inputs if parents[-1] in KERNELS else (0,)
            value = rounded(value, axes)
        params[path] = jnp.asarray(value)
    return assemble(model.config, unflatten(params))


@pytest.mark.parametrize("inputs", [1, 2])
def test_an_element_is_at_most_half_a_step_away(inputs: int) -> None:
    kernel = RANDOM.normal(size=(5, 7, 11, 3)) * np.exp(RANDOM.normal(size=(11, 3)))
    kernel[:, :, 2, 1] = 0  # an output without weights
    with exactly(jnp.dtype("float64")):
        found = Int8Kernel.of(jnp.asarray(kernel), inputs)
    assert found.values.dtype == jnp.int8
    values = np.moveaxis(np.asarray(found.values, float), range(-inputs, 0), range(inputs))
    scales = np.asarray(found.scales)
    assert (np.abs(values * scales - kernel) <= 0.5 * scales * (1 + 1e-12)).all()
    # The whole range is used, so that the steps are as small as they can be.
    largest = np.abs(values).max(axis=tuple(range(inputs)))
    assert (largest[kernel.any(axis=tuple(range(inputs)))] == LARGEST).all()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_product_loses_only_what_the_kernel_has_lost(dtype: str) -> None:
    x = RANDOM.normal(size=(2, 3, 5, 7)).astype(dtype)
    x[1, 2] = 0  # a row without values
    x[0, 0, 0, 0] = 100  # the others are small beside it
    kernel = RANDOM.normal(size=(5, 7, 11, 3)).astype(dtype)
    with exactly(jnp.dtype(dtype)):
        product = Int8Kernel.of(jnp.asarray(kernel), 2).product(jnp.asarray(x), 2)
    assert product.dtype == dtype
    lost_by_kernel = np.tensordot(x, rounded(kernel, (0, 1)), 2)
    step = np.abs(x).max(axis=(2, 3)) / LARGEST
    # Half of the step of the second row, for each input.
    bound = 0.5 * step / (2 * LARGEST) * np.abs(kernel).sum(axis=(0, 1)).max()
    error = np.abs(np.asarray(product) - lost_by_kernel).max(axis=(2, 3))
    assert (error <= 1.01 * bound).all()
    assert (np.asarray(product)[1, 2] == 0).all()


@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)
def test_a_model_in_int8_is_the_model_with_rounded_kernels(fields: dict[str, Any]) -> None:
    model = random_model("float32", **fields)
    before = {path: np.array(leaf) for path, leaf in flatten(params_of(model)).items()}
    ids = RANDOM.integers(0, model.config.vocab_size, (2, 11))
    found = jaxgpt.to_int8(model)
    if model.config.tied:
        table = np.asarray(model.token_embedding.embedding[...])
        expected = with_rounded_kernels(model).states(jnp.asarray(ids)).final @ rounded(
            table.T, (0,)
        )
        ours = found.head.kernel[...].product(found.states(jnp.asarray(ids)).final, 1)
    else:
        ours, expected = found(ids), with_rounded_kernels(model)(ids)
    require_close(np.asarray(ours), np.asarray(expected), 2e-3)
    for path, leaf in flatten(params_of(model)).items():  # the model itself is as it was
        np.testing.assert_array_equal(leaf, before[path])


@pytest.mark.parametrize("fields", [{}, CONFIGS["gemma"], CONFIGS["tied with a bias, offset"]])
def test_generation_in_int8_follows_the_logits_of_the_same_model(fields: dict[str, Any]) -> None:
    model = jaxgpt.to_int8(random_model("float32", **fields))
    ids = [5, 3, 8]
    for new in np.concatenate(list(jaxgpt.generate(model, ids, 6, temperature=0))):
        last = np.asarray(model(np.asarray([ids])))[0, -1]
        assert last[new] > last.max() - 1e-3 * np.abs(last).max()
        ids.append(int(new))


def test_an_encoder_decoder_translates_in_int8() -> None:
    pair = random_pair("float32")
    found, source = jaxgpt.to_int8(pair), np.asarray([[4, 7, 1]])
    ids = np.asarray([[1, 9, 30]])
    require_close(
        np.asarray(found(source, ids)), np.asarray(with_rounded_kernels(pair)(source, ids)), 2e-3
    )
    (text,) = jaxgpt.translate(found, source.tolist(), start=1, end=2, max_new_tokens=5)
    text = [1, *text]
    for i in range(1, len(text)):
        last = np.asarray(found(source, np.asarray([text[:i]])))[0, -1]
        assert last[text[i]] > last.max() - 1e-3 * np.abs(last).max()


def test_the_programs_of_generation_keep_the_kernels_in_int8() -> None:
    model = random_model("float32")
    prepared = Weights.prepare(jaxgpt.to_int8(model), jnp.dtype("float32"))
    in_int8 = sum(leaf.size for leaf in prepared.leaves if leaf.dtype == jnp.int8)
    kernels = {p: leaf for p, leaf in flatten(params_of(model)).items() if p.endswith("kernel")}
    once = sum(leaf.size for leaf in kernels.values())
    # Those of the blocks are there once more, as separate modules.
    assert in_int8 == 2 * once - kernels["head/kernel"].size
    x, kernel = jnp.ones((1, 35)), Int8Kernel.of(jnp.ones((35, 8)), 1)
    text = jax.jit(lambda x, kernel: kernel.product(x, 1)).lower(x, kernel).as_text()
    assert "(tensor<2x35xi8>, tensor<8x35xi8>) -> tensor<2x8xi32>" in text


def test_kernels_are_rounded_once_and_in_the_dtype_of_the_model() -> None:
    model = random_model("float64", tied=True)
    once = jaxgpt.to_int8(model)
    assert once.dtype == jnp.float64
    ids = RANDOM.integers(0, model.config.vocab_size, (2, 11))
    np.testing.assert_array_equal(once(ids), jaxgpt.to_int8(once)(ids))


def test_a_model_in_int8_can_be_neither_saved_nor_converted(tmp_path: Path) -> None:
    model = jaxgpt.to_int8(random_model("float32"))
    for use in (lambda: params_of(model), lambda: jaxgpt.save(tmp_path / "model", model)):
        with pytest.raises(UserError, match="in int8, which is for generation alone"):
            use()
    assert not (tmp_path / "model").exists()
