import ml_dtypes
import numpy as np
import pytest

from convert.bridge import FLOATS, fit, require_floats, require_one_dtype_per_row, to_flax, to_torch
from convert.dialects import DIALECTS
from convert.rows import Dialect, Row
from jaxgpt.config import ModelConfig, UserError
from jaxgpt.model import abstract_params
from jaxgpt.tree import Tree, flatten, unflatten

CONFIG = ModelConfig(vocab_size=103, context_length=17, model_dim=35, num_blocks=3, num_heads=5)
BLOCK = "transformer_blocks.1.mhsa"


def random_params(config: ModelConfig, dtype: np.dtype) -> Tree:
    rng = np.random.default_rng(0)
    flat = flatten(abstract_params(config))
    return unflatten({path: rng.normal(size=leaf.shape).astype(dtype) for path, leaf in flat.items()})


def shapes(dialect: Dialect) -> dict[str, tuple[int, ...]]:
    tensors = to_torch(dialect, CONFIG, random_params(CONFIG, np.dtype("float32")))
    return {name: value.shape for name, value in tensors.items()}


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("dtype", sorted(FLOATS, key=str), ids=str)
def test_there_and_back_is_identity_bit_for_bit(dialect: Dialect, dtype: np.dtype) -> None:
    params = random_params(CONFIG, dtype)
    tensors = to_torch(dialect, CONFIG, params)
    found = fit(dialect, {name: value.shape for name, value in tensors.items()})
    assert not found.problems
    back = flatten(to_flax(dialect, found.sizes, tensors.__getitem__))
    assert back.keys() == flatten(params).keys()
    for path, value in flatten(params).items():
        assert back[path].dtype == dtype
        assert back[path].tobytes() == value.tobytes(), path


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
def test_rows_cover_the_model_once_and_agree_on_their_axes(dialect: Dialect) -> None:
    for flax, torch in dialect.views:
        assert sorted((*flax.spread, *flax.inner)) == sorted((*torch.spread, *torch.inner)), flax.name
    paths = [view.at(place) for view, _ in dialect.views for place in view.places({"qkv": 3})]
    assert sorted(paths) == sorted(flatten(abstract_params(CONFIG)))


def test_every_problem_is_named_at_once_and_in_axis_names() -> None:
    dialect = DIALECTS["gpt"]
    broken = shapes(dialect)
    broken["token_embedding.weight"] = (103, 36)
    broken[f"{BLOCK}.attention_heads.4.value_layer.weight"] = (35, 7)
    broken["lm_head.weight"] = (103, 35)
    del broken[f"{BLOCK}.compute.bias"]
    assert sorted(fit(dialect, broken).problems) == [
        "lm_head.weight is unknown",
        "token_embedding.weight is (103, 36), expected v d = (103, 35)",
        f"{BLOCK}.attention_heads.4.value_layer.weight is (35, 7), expected k d = (7, 35)",
        f"{BLOCK}.compute.bias is missing (d = (35,))",
    ]


def test_a_missing_head_and_a_missing_block_are_seen() -> None:
    dialect = DIALECTS["gpt"]
    without_head = {n: s for n, s in shapes(dialect).items() if not n.startswith(f"{BLOCK}.attention_heads.2")}
    assert len(fit(dialect, without_head).problems) == 3
    without_block = {n: s for n, s in shapes(dialect).items() if not n.startswith("transformer_blocks.1.")}
    assert all("transformer_blocks.1." in problem for problem in fit(dialect, without_block).problems)
    assert len(fit(dialect, without_block).problems) == 3 * 5 + 2 + 4 + 4


def test_absurd_numbers_in_names_are_refused_without_being_counted_out() -> None:
    dialect = DIALECTS["gpt"]
    hostile = {**shapes(dialect), "transformer_blocks.999999999.mhsa.compute.bias": (35,)}
    assert len(fit(dialect, hostile).problems) == 1
    assert "layer up to 999999999" in fit(dialect, hostile).problems[0]
    squared = {f"x.{i}": (1,) for i in range(700)} | {
        "transformer_blocks.699.mhsa.attention_heads.699.key_layer.weight": (7, 35)
    }
    assert len(fit(dialect, squared).problems) == 701


def test_merged_axes_are_solved_from_what_the_others_say() -> None:
    dialect = Dialect(
        "fused",
        "a made-up one",
        (
            Row("token_embedding/embedding : v d", "wte : v d"),
            Row("blocks/attn/{qkv}/kernel : layer d head k", "h.{layer}.attn : d (qkv head k)"),
            Row("blocks/attn/out/kernel : layer head k d", "h.{layer}.out : head k d"),
        ),
        {},
    )
    found = fit(dialect, {"wte": (11, 6), "h.0.attn": (6, 30), "h.0.out": (2, 5, 6)})
    assert not found.problems
    assert dict(found.sizes) == {"v": 11, "d": 6, "layer": 1, "head": 2, "k": 5, "qkv": 3}
    found = fit(dialect, {"wte": (11, 6), "h.0.attn": (6, 33), "h.0.out": (2, 5, 6)})
    assert found.problems == ["h.0.attn is (6, 33), expected d (qkv head k) = (6, 30)"]


def test_a_name_that_two_rows_claim_is_a_problem() -> None:
    rows = (Row("a : d", "x.{layer} : d"), Row("b : d", "x.0 : d"))
    assert "x.0 is claimed by 2 rows" in fit(Dialect("twice", "", rows, {}), {"x.0": (3,)}).problems


def test_a_model_that_the_dialect_cannot_hold_is_refused() -> None:
    tied = ModelConfig(**{**vars(CONFIG), "tied": True, "qkv_bias": True})
    with pytest.raises(UserError, match=r"it has no head/kernel.*its blocks/attn/key/bias has no place"):
        to_torch(DIALECTS["gpt"], tied, random_params(tied, np.dtype("float32")))


def test_only_floats_of_one_kind_are_weights() -> None:
    with pytest.raises(UserError, match="f.pt: .* a is int8; b is complex64"):
        require_floats({"a": np.dtype("int8"), "b": np.dtype("complex64"), "c": np.dtype("float16")}, "f.pt")
    names = [f"transformer_blocks.{i}.layer_norm_one.bias" for i in range(2)]
    mixed = dict(zip(names, (np.dtype("float32"), np.dtype(ml_dtypes.bfloat16)), strict=True))
    with pytest.raises(UserError, match="layer_norm_one.bias has bfloat16 and float32"):
        require_one_dtype_per_row(DIALECTS["gpt"], mixed, "f.pt")
    require_one_dtype_per_row(DIALECTS["gpt"], dict.fromkeys(names, np.dtype("float16")), "f.pt")


def test_heads_keep_their_order() -> None:
    """Head 2 of the file is head 2 of the array, key by key: a permutation would also survive the round trip."""
    dialect = DIALECTS["gpt"]
    tensors = to_torch(dialect, CONFIG, params := random_params(CONFIG, np.dtype("float32")))
    for name in ("query", "key", "value"):
        kernel = params["blocks"]["attn"][name]["kernel"]
        np.testing.assert_array_equal(tensors[f"{BLOCK}.attention_heads.2.{name}_layer.weight"], kernel[1, :, 2].T)
