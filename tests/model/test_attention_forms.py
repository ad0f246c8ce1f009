"""Every form against plain attention in float64, written out here; and which form a device gets."""

import functools
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from jaxgpt.config import ComputeConfig, ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.model.attention_forms import Form, attention_weights
from jaxgpt.model.attention_kernels import FORMS, pick, splash
from jaxgpt.model.flops import of_program
from jaxgpt.model.spec import Scores

# The kernel for TPUs runs anywhere, interpreted; the one for GPUs does not: `test_plan` compiles it.
EXACT = {name: FORMS[name] for name in ("xla", "chunked", "tiled")}
RUN = EXACT | {"splash": functools.partial(splash, interpret=True)}
# Lengths at which the blocks or tiles of a form change in number or width; plain attention has none.
LENGTHS = {
    "xla": (1, 65),
    "chunked": (1, 63, 64, 65, 513, 1025),
    "tiled": (1, 127, 128, 129, 300),
}
# Lengths and head widths for the kernels: every width of a block, padded or not, and every width
# of a head.
CASES = [(1, 42), (128, 64), (129, 42), (129, 128), (511, 32), (513, 42), (1025, 128)]
PLAIN = Scores()
SHARE = {"float32": 3e-6, "bfloat16": 0.02}  # of the largest value


def exactly(
    q: Any, k: Any, v: Any, weight: Any, scale: float, rule: Scores = PLAIN
) -> list[np.ndarray]:
    """Outputs and gradients of plain attention in float64, with the rule written out."""
    q, k, v, weight = (np.asarray(part).astype("float64") for part in (q, k, v, weight))
    scores, by_cap = np.einsum("btmgh,bsmh->bmgts", q, k, optimize=True) * scale, 1.0
    if rule.softcap:
        capped = np.tanh(scores / rule.softcap)
        scores, by_cap = rule.softcap * capped, 1 - capped**2
    distance = np.arange(q.shape[1])[:, None] - np.arange(q.shape[1])
    if rule.slopes:
        scores -= np.reshape(rule.slopes, (*q.shape[2:4], 1, 1)) * distance
    seen = (distance >= 0) & (distance < (rule.window or np.inf))
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    by_weights = np.einsum("btmgh,bsmh->bmgts", weight, v, optimize=True)
    along = (by_weights * weights).sum(-1, keepdims=True)
    by_scores = weights * (by_weights - along) * by_cap * scale
    products = [
        ("bmgts,bsmh->btmgh", weights, v),
        ("bmgts,bsmh->btmgh", by_scores, k),
        ("bmgts,btmgh->bsmh", by_scores, q),
        ("bmgts,btmgh->bsmh", weights, weight),
    ]
    return [np.einsum(*product, optimize=True) for product in products]


def outputs_and_gradients(
    form: Form, q: Any, k: Any, v: Any, weight: Any, scale: float, rule: Scores = PLAIN
) -> tuple[jax.Array, ...]:
    """The outputs and gradients of `form`, with a traced scale: it may depend on the layer."""
    return program(form, rule)(scale, weight, q, k, v)


@functools.cache
def program(form: Form, rule: Scores) -> Any:
    """The jitted function behind `outputs_and_gradients`; the rows may have segments."""

    @jax.jit
    def run(scale: jax.Array, weight: jax.Array, *parts: jax.Array) -> tuple[jax.Array, ...]:
        *qkv, segments = parts if len(parts) == 4 else (*parts, None)
        mixed, pull = jax.vjp(lambda *qkv: form(*qkv, scale, rule, segments), *qkv)
        return mixed, *pull(weight.astype(mixed.dtype))

    return run


def random_parts(
    length: int, head: int, dtype: str, batch: int = 1, heads: int = 2, group: int = 1
) -> list[np.ndarray]:
    """Queries, keys, values, and weights of the outputs."""
    rng = np.random.default_rng(length)
    wide, narrow = (batch, length, heads, group, head), (batch, length, heads, head)
    return [rng.normal(size=shape).astype(dtype) for shape in (wide, narrow, narrow, wide)]


@pytest.mark.parametrize(
    ("form", "length", "head", "dtype"),
    [
        *((form, 129, 42, dtype) for form in EXACT for dtype in SHARE),  # other lengths below
        *(("splash", length, head, "float32") for length, head in CASES),
        *(("splash", length, 42, "bfloat16") for length in (1, 129)),
    ],
)
def test_outputs_and_gradients_are_those_of_plain_attention(
    form: str, length: int, head: int, dtype: str
) -> None:
    parts = random_parts(length, head, dtype)
    found = outputs_and_gradients(RUN[form], *parts, 2 * head**-0.5)
    expected = exactly(*parts, 2 * head**-0.5)
    for mine, other, name in zip(found, expected, "oqkv", strict=True):
        assert mine.dtype == dtype
        largest = max(
            1, np.abs(other).max()
        )  # of one position, queries and keys have no gradient at all
        np.testing.assert_allclose(
            np.asarray(mine).astype("float64"),
            other,
            rtol=0,
            atol=SHARE[dtype] * largest,
            err_msg=name,
        )


@pytest.mark.parametrize(
    ("form", "length"), [(form, length) for form in EXACT for length in LENGTHS[form]]
)
def test_in_float64_only_rounding_differs(form: str, length: int) -> None:
    with jax.enable_x64(True):
        parts = [3 * part for part in random_parts(length, 5, "float64", batch=2, heads=3)]
        ours = outputs_and_gradients(RUN[form], *parts, 0.4)
        for mine, other in zip(ours, exactly(*parts, 0.4), strict=True):
            np.testing.assert_allclose(mine, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", RUN)
def test_large_scores_do_not_overflow(form: str) -> None:
    k = np.full((1, 129, 2, 42), 100, "float32")
    q = k[:, :, :, None]
    found = outputs_and_gradients(RUN[form], q, k, k, np.ones_like(q), 1.0)
    assert all(np.isfinite(each).all() for each in found)
    # The sum of more equal weights is rounded more.
    np.testing.assert_allclose(found[0][:, :70], q[:, :70], rtol=1e-6)


def test_queries_may_cover_only_the_last_positions() -> None:
    q, k, _, _ = random_parts(9, 4, "float32")
    for rule in (PLAIN, Scores(window=4, slopes=(0.5, 0.25))):
        last, all_of_them = (attention_weights(part, k, 0.5, rule) for part in (q[:, 6:], q))
        np.testing.assert_allclose(last, all_of_them[..., 6:, :], rtol=0, atol=1e-6)


RULES = {
    "groups": PLAIN,
    "window": Scores(window=70),
    "window of one": Scores(window=1),
    "window beyond the text": Scores(window=5000),
    "softcap": Scores(softcap=1.5),
    "alibi": Scores(slopes=(0.5, 0.25, 0.125, 0.06, 0.03, 0.01)),
    "all": Scores(1.5, (0.5, 0.25, 0.125, 0.06, 0.03, 0.01), 70),
}
DONE = {form: list(RULES) for form in EXACT}
DONE["splash"] = [name for name, rule in RULES.items() if rule.slopes is None]
BLOCKS = {"xla": 129, "chunked": 129, "tiled": 300, "splash": 513}  # lengths of several of them


@pytest.mark.parametrize(("form", "rule"), [(f, r) for f, rules in DONE.items() for r in rules])
def test_grouped_queries_windows_caps_and_slopes(form: str, rule: str) -> None:
    exact = form in EXACT  # splash computes in float32
    with jax.enable_x64(exact):
        dtype = "float64" if exact else "float32"
        parts = [2 * part for part in random_parts(BLOCKS[form], 16, dtype, group=3)]
        ours = outputs_and_gradients(RUN[form], *parts, 0.4, RULES[rule])
    for mine, other in zip(ours, exactly(*parts, 0.4, RULES[rule]), strict=True):
        atol = 1e-10 if exact else 4e-5 * max(1, np.abs(other).max())
        np.testing.assert_allclose(mine, other, rtol=0, atol=atol)


@pytest.mark.parametrize("form", ["chunked", "tiled"])
def test_a_window_computes_less(form: str) -> None:
    """The work of a window grows with the window, not with the text."""
    q, k, v, _ = random_parts(2048, 16, "float32")

    def flops(rule: Scores) -> float:
        return of_program(jax.make_jaxpr(lambda *x: FORMS[form](*x, 1.0, rule))(q, k, v).jaxpr)

    assert flops(Scores(window=64)) < 0.4 * flops(PLAIN)


def test_the_memory_of_tiles_grows_with_the_length_alone() -> None:
    def temporaries(length: int) -> int:
        def gradients(*parts: jax.Array) -> Any:
            *qkv, weight = parts
            return jax.vjp(lambda *qkv: FORMS["tiled"](*qkv, 0.25, PLAIN), *qkv)[1](weight)

        step = jax.jit(gradients).lower(*random_parts(length, 16, "float32")).compile()
        return step.memory_analysis().temp_size_in_bytes  # type: ignore[union-attr]

    assert temporaries(4096) < 4.5 * temporaries(1024)


GPU = {"platform": "gpu", "device_kind": "NVIDIA H200", "compute_capability": "9.0"}
OLD = {"platform": "gpu", "device_kind": "Tesla V100", "compute_capability": "7.0"}
AMD = {"platform": "gpu", "device_kind": "AMD Instinct", "compute_capability": "gfx942"}
TPU = {"platform": "tpu", "device_kind": "TPU v5 lite"}
CPU = {"platform": "cpu", "device_kind": "cpu"}


def picked(
    device: dict[str, str],
    dtype: str,
    attention: str = "auto",
    length: int = 1024,
    head: int = 64,
    pack: str = "off",
) -> Any:
    model = ModelConfig(10, length, 2 * head, 1, 2)
    compute = ComputeConfig(attention=attention, dtype=dtype)
    return pick(model, compute, SimpleNamespace(**device), pack)


@pytest.mark.parametrize(
    ("device", "dtype", "sizes", "form", "why"),
    [
        (GPU, "bfloat16", {}, "cudnn", "NVIDIA H200"),
        (GPU, "float32", {}, "chunked", "compute.dtype is float32"),
        (GPU, "bfloat16", {"head": 136}, "chunked", "model.head_dim is 136"),
        (GPU, "bfloat16", {"length": 64}, "chunked", "64 positions"),
        (GPU, "bfloat16", {"pack": "restart"}, "chunked", "cudnn does not keep the documents"),
        (TPU, "bfloat16", {"pack": "restart"}, "splash", "TPU v5 lite"),
        (CPU, "float32", {"pack": "continue"}, "tiled", "for cpu"),
        (OLD, "bfloat16", {}, "chunked", "the device is Tesla V100"),
        (AMD, "bfloat16", {}, "chunked", "the device is AMD Instinct"),
        (TPU, "float32", {}, "splash", "TPU v5 lite"),
        (TPU, "bfloat16", {"head": 42}, "splash", "heads of 42"),
        (TPU, "bfloat16", {"head": 264}, "chunked", "heads up to 256 wide"),
        (CPU, "float32", {}, "tiled", "for cpu"),
        (CPU, "bfloat16", {}, "tiled", "for cpu"),
        (CPU, "float32", {"length": 128}, "chunked", "128 positions"),
    ],
)
def test_auto_depends_on_device_dtype_head_size_and_length(
    device: dict[str, str], dtype: str, sizes: dict[str, Any], form: str, why: str
) -> None:
    found = picked(device, dtype, **sizes)
    assert (found[0], why in found[1]) == (form, True)


@pytest.mark.parametrize("form", ["xla", "chunked"])
@pytest.mark.parametrize("device", [GPU, TPU, CPU])
def test_forms_that_every_device_supports_can_be_requested(
    device: dict[str, str], form: str
) -> None:
    assert picked(device, "float32", form)[0] == form


@pytest.mark.parametrize(
    ("device", "dtype", "form", "head", "message"),
    [
        (
            CPU,
            "bfloat16",
            "cudnn",
            64,
            "cudnn, which needs an NVIDIA GPU .* the device is cpu.* auto, xla, chunked, tiled.$",
        ),
        (CPU, "float32", "splash", 64, "splash, which needs a TPU, and the device is cpu"),
        (GPU, "float32", "cudnn", 64, "computes in bfloat16, and compute.dtype is float32"),
        (GPU, "bfloat16", "splash", 64, "can be used here: auto, xla, chunked, cudnn.$"),
        (GPU, "bfloat16", "cudnn", 256, "takes heads up to 128 wide, and model.head_dim is 256"),
        (TPU, "bfloat16", "cudnn", 64, "can be used here: auto, xla, chunked, splash.$"),
    ],
)
def test_an_unusable_form_is_refused_with_the_usable_ones(
    device: dict[str, str], dtype: str, form: str, head: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        picked(device, dtype, form, head=head)
