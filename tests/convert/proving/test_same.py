"""`assert_same` of a torch module and JAX functions of anybody's: equal ones, and wrong ones."""

import functools
import io
import re
import sys
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import convert  # noqa: E402
from convert.proving import same  # noqa: E402
from convert.proving.sameness import Sameness  # noqa: E402
from jaxgpt.errors import UserError  # noqa: E402
from tests.classes import small_gpt_jax as styles  # noqa: E402
from tests.classes.small_gpt import SIZES, SmallGPT  # noqa: E402

TOKENS = np.random.default_rng(0).integers(0, SIZES["vocabulary"], (3, SIZES["context"]))
STYLES = {
    "plain JAX": styles.plain,
    "Linen": styles.in_linen,
    "NNX": styles.in_nnx,
    "Equinox": styles.in_equinox,
}


@pytest.fixture(scope="module")
def module() -> Any:
    torch.manual_seed(0)
    return SmallGPT()


@pytest.fixture
def state(module: Any) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in module.state_dict().items()}


def difference(*arguments: Any, **options: Any) -> str:
    with pytest.raises(AssertionError) as raised:
        convert.assert_same(*arguments, **options)
    return str(raised.value)


@pytest.fixture(scope="module")
def sameness(module: Any) -> Callable[[str], Sameness]:
    """A function: style -> what `assert_same` finds of the same model in it."""

    @functools.cache
    def of(style: str) -> Sameness:
        state = {name: value.numpy() for name, value in module.state_dict().items()}
        function, params = STYLES[style](state)
        return convert.assert_same(module, function, TOKENS, params=params)

    return of


@pytest.mark.parametrize("style", STYLES)
def test_the_same_model_in_another_style_is_the_same(
    style: str, module: Any, state: Any, sameness: Callable[[str], Sameness]
) -> None:
    if style == "Equinox":
        pytest.importorskip("equinox", reason="equinox is not installed")
    same = sameness(style)
    assert same.first_difference is None
    assert same.names.keys() == dict(module.named_parameters()).keys()
    assert same.training is not None
    rows = same.training.rows
    assert len(rows) >= 1 + 2 * len(same.names)
    numbers = sum(value.numel() for value in module.parameters())
    assert numbers == sum(np.size(leaf) for leaf in jax.tree.leaves(STYLES[style](state)[1]))
    assert max(row.relative for row in rows) < 1e-10
    assert sum(row.scale > 1e-6 for row in rows) > len(rows) / 2


def test_names_are_proposed_by_values(sameness: Callable[[str], Sameness]) -> None:
    """Also those of norms and biases, all of which are ones and zeros."""
    names = sameness("Linen").names
    assert names["h.1.c_attn.weight"] == ["attn_1/kernel"]
    assert names["h.0.ln_1.weight"] == ["before_0/scale"]
    assert names["h.1.ln_2.bias"] == ["after_1/bias"]
    assert names["h.1.down.bias"] == ["back_1/bias"]
    names = sameness("plain JAX").names
    assert names["h.1.c_attn.weight"] == [f"blocks/attn/{name}/w" for name in "kqv"]
    assert names["h.0.ln_2.weight"] == ["blocks/norms/1/0"]


def test_a_wrong_gradient_is_reported_where_it_is(module: Any, state: Any) -> None:
    """The output is the same, and everything in front of the fault has another gradient."""

    @jax.custom_vjp
    def halved(x: jax.Array) -> jax.Array:
        return x

    halved.defvjp(lambda x: (x, None), lambda _, g: (0.5 * g,))
    function, params = styles.plain(state, bend=halved)
    text = difference(module, function, TOKENS, params=params)
    assert "the logits agree, but" in text
    assert re.search(r"nearest to the loss is that of h\.1\.up\.\w+ \(blocks/mlp/0/\d\)", text), (
        text
    )
    right = re.search(r"These differ: (.*)\.$", text)
    assert right
    assert "h.1.down" not in text
    assert "ln_f" not in text
    convert.assert_same(module, function, TOKENS, params=params, train_steps=0)


def test_a_wrong_gradient_of_a_norm_is_reported_there(module: Any, state: Any) -> None:
    """Its numbers are ones, as those of other norms, so that they have no value of their own."""

    @jax.custom_vjp
    def doubled(x: jax.Array) -> jax.Array:
        return x

    doubled.defvjp(lambda x: (x, None), lambda _, g: (2 * g,))
    plain, params = styles.in_linen(state)

    def function(params: Any, tokens: jax.Array) -> jax.Array:
        norm = params["after_0"]
        return plain({**params, "after_0": {**norm, "scale": doubled(norm["scale"])}}, tokens)

    text = difference(module, function, TOKENS, params=params)
    assert "1 of 29 gradients differ" in text
    assert "nearest to the loss is that of h.0.ln_2.weight (after_0/scale)" in text


def test_a_transposed_matrix_is_named(module: Any, state: Any) -> None:
    state["h.1.c_proj.weight"] = state["h.1.c_proj.weight"].T.copy()
    function, params = styles.in_linen(state)
    text = difference(module, function, TOKENS, params=params)
    assert "logits by up to" in text
    assert "With h.1.c_proj.weight transposed in torch, the two agree" in text
    state["h.0.c_proj.weight"] = state["h.0.c_proj.weight"].T.copy()
    function, params = styles.in_linen(state)
    text = difference(module, function, TOKENS, params=params)
    assert "With h.0.c_proj.weight and h.1.c_proj.weight transposed" in text


def test_a_wrong_epsilon_of_a_norm_is_named(module: Any, state: Any) -> None:
    function, params = styles.plain(state, eps=1e-6)
    text = difference(module, function, TOKENS, params=params)
    assert "With an epsilon of 1e-06 in place of 1e-05 in ln_f in torch, the two agree" in text


def test_a_wrong_epsilon_of_the_optimiser_is_told_from_a_gradient(module: Any, state: Any) -> None:
    function, params = styles.in_linen(state)

    def adamw(parameters: Any) -> Any:
        return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, eps=1e-8)

    good, bad = (optax.adamw(1e-3, weight_decay=0.0, eps=eps) for eps in (1e-8, 1e-5))
    convert.assert_same(module, function, TOKENS, params=params, optimizers=(adamw, good))
    text = difference(module, function, TOKENS, params=params, optimizers=(adamw, bad))
    assert "logits and gradients agree, but" in text
    assert "after 3 steps" in text
    assert "settings of the optimisers" in text


def test_a_changed_value_is_reported_under_both_names(module: Any, state: Any) -> None:
    state["h.1.up.weight"] = state["h.1.up.weight"].copy()
    state["h.1.up.weight"][3, 5] += 1e-7
    function, params = styles.in_linen(state)
    text = difference(module, function, TOKENS, params=params)
    assert "values of h.1.up.weight are in no array of the JAX parameters" in text
    assert "values of fc_1/kernel are in no parameter of the torch module" in text


def test_tied_in_torch_and_apart_in_jax_is_a_difference(state: Any) -> None:
    """The numbers are equal at first, and part as soon as they are trained."""
    module = SmallGPT()
    module.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    module.lm_head.weight = module.wte.weight
    state["lm_head.weight"] = state["wte.weight"]
    function, params = styles.in_linen(state)
    convert.assert_same(module, function, TOKENS, params=params, train_steps=0)
    text = difference(module, function, TOKENS, params=params)
    assert re.search(r"values of (head/kernel|wte/embedding).* are in no parameter", text), text


def test_names_of_the_user_decide(module: Any, state: Any) -> None:
    function, params = styles.in_linen(state)
    right = {"h.0.ln_1.weight": "before_0/scale", "h.0.ln_2.weight": "after_0/scale"}
    convert.assert_same(module, function, TOKENS, params=params, names=right)
    wrong = {"h.0.ln_1.weight": "after_0/scale", "h.0.ln_2.weight": "before_0/scale"}
    text = difference(module, function, TOKENS, params=params, names=wrong)
    assert "2 of 29 gradients differ" in text
    assert "h.0.ln_1.weight (after_0/scale)" in text
    with pytest.raises(UserError, match=r"no befor_0/scale. Did you mean before_0/scale\?"):
        convert.assert_same(
            module, function, TOKENS, params=params, names={"h.0.ln_1.weight": "befor_0/scale"}
        )


def test_what_torch_does_not_train_stays(module: Any, state: Any) -> None:
    frozen = SmallGPT()
    frozen.load_state_dict(module.state_dict())
    frozen.wpe.requires_grad_(False)
    function, params = styles.in_linen(state)
    same = convert.assert_same(frozen, function, TOKENS, params=params)
    assert same.training is not None
    assert not [row for row in same.training.rows if "wpe" in row.name]


def test_a_function_that_rounds_to_float32_is_refused(module: Any, state: Any) -> None:
    plain, params = styles.in_linen(state)
    with pytest.raises(UserError, match="returns float32 for parameters in float64"):
        convert.assert_same(
            module, lambda p, ids: plain(p, ids).astype(jnp.float32), TOKENS, params=params
        )
    text = difference(
        module,
        lambda p, ids: plain(p, ids).astype(jnp.float32).astype(jnp.float64),
        TOKENS,
        params=params,
    )
    assert "rounding in float32" in text


def test_what_cannot_be_compared_is_refused(module: Any, state: Any) -> None:
    function, params = styles.in_linen(state)
    with pytest.raises(UserError, match="params is missing"):
        convert.assert_same(module, function, TOKENS)
    with pytest.raises(UserError, match=r"must return logits .* but returned \(3, 19\)"):
        convert.assert_same(module, lambda p, ids: function(p, ids)[:, 0], TOKENS, params=params)
    with pytest.raises(UserError, match="no array of floating-point numbers"):
        convert.assert_same(module, function, TOKENS, params={"n": 3})


def test_the_other_gelu_is_named() -> None:
    """The commonest slip of a port: jax.nn.gelu has tanh by default, and torch's has erf."""

    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = torch.nn.Embedding(11, 8), torch.nn.Linear(8, 11)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(torch.nn.functional.gelu(self.table(ids)))

    module = Small()
    params = {name: value.detach().numpy() for name, value in module.named_parameters()}

    def ported(params: Any, ids: Any, approximate: bool = True) -> Any:
        x = jax.nn.gelu(params["table.weight"][ids], approximate=approximate)
        return x @ params["head.weight"].T + params["head.bias"]

    with pytest.raises(AssertionError, match="With tanh for erf, .* in GELU .* the two agree"):
        convert.assert_same(module, ported, [[1, 2, 3]], params=params, train_steps=0)
    exact = functools.partial(ported, approximate=False)
    convert.assert_same(module, exact, [[1, 2, 3]], params=params, train_steps=0)


class Screen(io.StringIO):
    """A terminal that says when `words` have been written to it."""

    def __init__(self, words: str = "") -> None:
        super().__init__()
        self.words, self.shown = words, threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.words in self.getvalue():
            self.shown.set()
        return written


def test_progress_is_shown_on_a_terminal_while_it_takes_long(
    module: Any, state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, params = styles.plain(state)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")

    def seen(screen: io.StringIO, until: threading.Event | None) -> str:
        def waiting(params: Any, tokens: Any) -> Any:
            assert until is None or until.wait(60), "nothing was shown"
            return function(params, tokens)

        monkeypatch.setattr(sys, "stderr", screen)
        convert.assert_same(module, waiting, TOKENS, params=params, train_steps=0)
        return screen.getvalue()

    monkeypatch.setattr(same, "PATIENCE", 0.0)
    slow = Screen("running torch and JAX in float64: logits")
    seen(slow, slow.shown)
    assert not seen(io.StringIO(), None)
    monkeypatch.setattr(same, "PATIENCE", 1000.0)
    assert not seen(Screen(), None)
