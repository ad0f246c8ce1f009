"""Decoders in other forms: matrices of three dimensions, wrapped modules, lists of parts, names that say little."""

import re
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import convert  # noqa: E402
from convert.detect.refusals import Asked  # noqa: E402
from jaxgpt.errors import UserError  # noqa: E402
from tests.convert.renaming.test_unusual_names import (  # noqa: E402
    BARE,
    GIVEN,
    INSIDE,
    MLP,
    State,
    equal,
    renamed,
)
from tests.convert.test_few_tensors import decoder  # noqa: E402

HEADS = 4
Form = Callable[[State], State]
PAIR = r"blocks\.(\d)\.(attn|mlp)"


def changed(state: State, names: str, change: Callable[[Any], Any]) -> State:
    """The tensors with those of `names` in another form."""
    return {n: change(v) if re.search(names, n) else v for n, v in state.items()}


def per_head(state: State, qkv: Callable[[Any], Any], out: Callable[[Any], Any]) -> State:
    """Bare parameters of three dimensions; `qkv` and `out` take (head, k, d) and (d, head, k)."""
    state = changed(state, r"[qkv]_proj\.weight", lambda v: qkv(v.unflatten(0, (HEADS, -1))))
    state = changed(state, r"[qkv]_proj\.bias", lambda v: v.unflatten(0, (HEADS, -1)))
    state = changed(state, r"o_proj\.weight", lambda v: out(v.unflatten(1, (HEADS, -1))))
    return renamed(state, (r"([qkvo])_proj\.weight", r"w_\1"), (r"([qkvo])_proj\.bias", r"b_\1"))


def fused_per_head(state: State) -> State:
    """One parameter (3, d, head, k) for queries, keys and values."""
    new: State = {}
    for name, value in state.items():
        if re.search("[kv]_proj", name):
            continue
        if "q_proj" in name:
            three = [state[name.replace("q_proj", f"{p}_proj")] for p in "qkv"]
            value = torch.stack(three).unflatten(1, (HEADS, -1)).permute(0, 3, 1, 2).contiguous()
        new[re.sub(r"q_proj\.weight", "wqkv", name)] = value
    return new


CONTIGUOUS = {
    "(d head k)": lambda v: v.permute(2, 0, 1).contiguous(),
    "(head d k)": lambda v: v.permute(0, 2, 1).contiguous(),
    "(head k d)": lambda v: v,
}
SAME = lambda v: v  # noqa: E731
WRAPPED = (
    (r"blocks\.(\d)\.norm1", r"layers.\1.0.fn.norm"), (r"blocks\.(\d)\.norm2", r"layers.\1.1.fn.norm"),
    (r"blocks\.(\d)\.attn", r"layers.\1.0.fn.fn"), (r"blocks\.(\d)\.mlp", r"layers.\1.1.fn.fn"),
)  # fmt: skip
COLUMNS = (
    (r"blocks\.(\d)\.norm(\d)", r"norms\2.\1"), (r"blocks\.(\d)\.attn", r"attns.\1"),
    (r"blocks\.(\d)\.mlp", r"mlps.\1"),
)  # fmt: skip
FORMS: dict[str, Form] = {
    "convolutions": lambda s: changed(s, "_proj.weight", lambda v: v[:, :, None]),
    "convolutions of two dimensions": lambda s: changed(s, "mlp.*weight", lambda v: v[..., None, None]),
    "convolutions under other names": lambda s: renamed(
        changed(s, "_proj.weight", lambda v: v[:, :, None]), ("up_proj", "conv1"), ("down_proj", "conv2"),
        (r"([qkvo])_proj", r"\1_conv"),
    ),
    **{f"heads {name}": lambda s, f=form: per_head(s, f, SAME) for name, form in CONTIGUOUS.items()},
    "output (head k d)": lambda s: per_head(s, SAME, lambda v: v.permute(1, 2, 0).contiguous()),
    "one stack of heads": fused_per_head,
    "one stack of heads, its parts last": lambda s: changed(
        fused_per_head(s), "wqkv", lambda v: v.permute(1, 2, 0, 3).contiguous()
    ),
    "all parameters with numbers": lambda s: changed(
        renamed(
            s, *BARE, *MLP, *INSIDE, (r"norm(\d)\.weight", r"gamma\1"), (r"norm(\d)\.bias", r"beta\1")
        ), r"\.w[qkvo12]$", lambda v: v.mT.contiguous(),
    ),
    "norms of three dimensions": lambda s: changed(s, r"norm\d", lambda v: v[None, None]),
    "wrapped": lambda s: renamed(s, *WRAPPED),
    "wrapped under other words": lambda s: renamed(
        s, (PAIR, r"blocks.\1.\2_res.sub"), (r"blocks\.(\d)\.norm1", r"blocks.\1.attn_res.scaled"),
        (r"blocks\.(\d)\.norm2", r"blocks.\1.mlp_res.scaled"),
    ),
    "one norm in a wrapper": lambda s: renamed(s, ("norm2", "mlp.0"), ("up_proj", "1"), ("down_proj", "3")),
    "norms in a list of wrappers": lambda s: renamed(s, ("norm1", "skip.0.calm"), ("norm2", "skip.1.calm")),
    "norms named after modules": lambda s: renamed(
        s, ("norm1", "pre_mix"), ("norm2", "pre_digest"), ("attn", "mixer"), ("mlp", "digest")
    ),
    "letters of queries": lambda s: renamed(s, (r"([qkv])_proj", r"my_\1x"), ("o_proj", "unify")),
    "a module by prefixes": lambda s: renamed(s, (r"attn\.", "attn_"), (r"mlp\.", "mlp_")),
    "lists of parts": lambda s: renamed(s, *COLUMNS),
    "one list of everything": lambda s: renamed(
        s, ("tok_emb", "all.0.tok"), ("pos_emb", "all.0.pos"), (r"blocks\.0", "all.2"),
        (r"blocks\.1", "all.3"), (r"^norm", "all.4"), ("lm_head", "all.5"),
    ),
    "words of no meaning outside": lambda s: renamed(
        s, ("tok_emb", "words"), ("pos_emb", "at"), (r"^norm\.", "calm."), ("lm_head", "speak")
    ),
    "an MLP with the words of attention": lambda s: renamed(
        s, ("up_proj", "in_proj"), ("down_proj", "out_proj"), (r"norm(\d)\.", r"n\1.")
    ),
    "an MLP of other words": lambda s: renamed(s, ("up_proj", "expand"), ("down_proj", "shrink")),
}  # fmt: skip


def brought_back(loaded: Any, other: State) -> None:
    back = convert.to_torch(loaded.params, loaded.config, loaded.dialect)
    assert [*back] == [*other]
    assert all(torch.equal(back[name], value) for name, value in other.items())


@pytest.mark.parametrize("form", FORMS)
def test_another_form_is_the_same_model_and_goes_back_as_it_was(form: str) -> None:
    plain = decoder(qkv_bias="heads" in form and "stack" not in form).state_dict()
    other = FORMS[form](plain)
    assert [*other] != [*plain] or any(other[n].shape != plain[n].shape for n in plain)
    counted = "head" in form or "output" in form
    loaded = convert.to_flax(other, **({} if counted else GIVEN))
    assert equal(loaded, convert.to_flax(plain, **GIVEN))
    if form != "one list of everything":  # without the module around everything
        brought_back(loaded, other)


FEW = {
    "norms around parts": (
        {"extra_norms": ["sandwich"]},
        [("norm1", "attn_in"), ("norm2", "mlp_in"), ("o1", "attn_out"), ("o2", "mlp_out")],
    ),
    "norms of queries and keys": ({"qk_norm": "before_rotary"}, [("qn", "q_calm"), ("kn", "k_calm")]),
    "norms before and after the blocks": (
        {"extra_norms": ["embedding"]}, [("emb_norm", "in_norm"), (r"^norm", "out_norm")]
    ),
    "one norm": ({"residual": "parallel_one_norm"}, [("norm1", "calm")]),
}  # fmt: skip


@pytest.mark.parametrize("form", FEW)
def test_norms_of_unknown_names_are_told_by_their_modules(form: str) -> None:
    fields, changes = FEW[form]
    module = decoder(**fields)
    usual = {"o1": "post_attn_norm", "o2": "post_mlp_norm", "qn": "q_norm", "kn": "k_norm"}
    if "sandwich" in str(fields):
        usual |= {"norm1": "pre_attn_norm", "norm2": "pre_mlp_norm"}
    plain = renamed(module.state_dict(), *((rf"\b{old}\b", new) for old, new in usual.items()))
    other = renamed(module.state_dict(), *((rf"\b{old}\b", new) for old, new in changes))
    given = {**GIVEN, **({} if "extra_norms" in fields else fields)}
    if "qk_norm" in fields:
        given = {"qk_norm": "before_rotary"}
    loaded = convert.to_flax(other, **given)
    assert equal(loaded, convert.to_flax(plain, **given))
    brought_back(loaded, other)


def test_what_only_the_order_of_the_file_tells_is_said() -> None:
    words = ("tok_emb", "one"), ("lm_head", "two"), ("pos_emb", "three")
    state = renamed(decoder().state_dict(), *words)
    report = convert.to_flax(state, **GIVEN).report
    assert any("one and two" in caveat for caveat in report.caveats)
    with pytest.raises(UserError, match="fit no known dialect"):
        convert.to_flax({name: state[name] for name in sorted(state)}, **GIVEN)


def test_matrices_in_another_order_than_usual_are_taken_for_neither_orientation() -> None:
    state = FORMS["an MLP of other words"](decoder(mlp_bias=False).state_dict())
    assert convert.to_flax(state, **GIVEN).config.mlp_dim == 20
    wide = [name for name in state if "expand" in name]
    last = {name: state.pop(name) for name in wide}
    with pytest.raises(
        UserError, match=r"nothing in it shows whether its matrices are \(in, out\)"
    ):
        convert.to_flax({**state, **last}, **GIVEN)


def test_norms_that_nothing_tells_are_refused() -> None:
    state = renamed(decoder().state_dict(), ("norm1", "calm"), ("norm2", "still"))
    with pytest.raises(UserError, match="fit no known dialect"):
        convert.to_flax(state, **GIVEN)


def test_the_number_of_heads_tells_which_dimension_is_theirs() -> None:
    plain = decoder(qkv_bias=True).state_dict()

    def last(value: Any) -> Any:
        return value.movedim(0, 1).contiguous()

    other = changed(FORMS["heads (head k d)"](plain), r"\.[wb]_[qkv]", last)
    other = changed(other, r"\.w_o", lambda v: v.transpose(1, 2).contiguous())
    caveats = convert.to_flax(other).report.caveats
    assert any("assumed to be their number" in caveat for caveat in caveats)
    loaded = convert.to_flax(other, **GIVEN)
    assert equal(loaded, convert.to_flax(plain, **GIVEN))
    assert not any("assumed to be their number" in caveat for caveat in loaded.report.caveats)
    brought_back(loaded, other)


def test_a_number_of_heads_that_the_dimensions_contradict_is_refused() -> None:
    state = FORMS["heads (d head k)"](decoder(qkv_bias=True).state_dict())
    with pytest.raises(UserError, match="num_heads 3 does not divide"):
        convert.to_flax(state, num_heads=3)


def test_an_order_that_the_dimensions_contradict_is_refused() -> None:
    state = fused_per_head(decoder().state_dict())
    with pytest.raises(UserError, match=r"wqkv is \(3, 24, 4, 6\), and .* would be"):
        convert.to_flax(state, qkv_order="by_head")


def test_a_list_that_lacks_its_first_blocks_is_refused() -> None:
    state = renamed(decoder().state_dict(), (r"blocks\.", "stack."), (r"stack\.(\d)", r"stack.2\1"))
    with pytest.raises(UserError, match="fit no known dialect"):
        convert.to_flax(state, **GIVEN)


def test_norms_without_weights_are_asked_for_under_any_names() -> None:
    state = decoder(norm_weight=False, norm_bias=False).state_dict()
    other = renamed(state, ("attn", "look"), ("mlp", "think"), ("tok_emb", "words"))
    with pytest.raises(Asked, match="no tensors of norms"):
        convert.to_flax(other, **GIVEN)
