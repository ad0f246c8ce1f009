import itertools
import random
import re
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from convert.detect import one_side, values
from convert.detect.inputs import Inputs
from convert.dialects import DIALECTS
from convert.dtypes import OF_WEIGHTS
from convert.names.modern_parts import NAMED, NUMBERED
from convert.names.parts import PAIRS
from convert.rows import parameters, regroup
from convert.rows.axes import View
from convert.rows.dialect import Dialect
from convert.rows.fields import norms_full_width
from convert.rows.fit import Fit, fit, meanings
from convert.rows.kinds import Alias, Row, Scaled, row
from convert.rows.labels import QKV
from convert.rows.move import require_floats, require_one_dtype_per_row
from convert.rows.parameters import deferred, to_flax
from convert.rows.resolve import settle
from convert.rows.strides import stride
from convert.rows.tensors import Tensors
from convert.rows.whole import to_torch
from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.pytree import Tree, flatten
from tests.helpers import PRIME_CONFIG, config_of, random_params, shares_by_heads

BLOCK = "transformer_blocks.1.mhsa"
FAMILIES = [dialect for dialect in DIALECTS.values() if dialect.family]


# Every dialect in every dtype, and in one of them tied, if the dialect can be.
MOVED = [
    pytest.param(dialect, dtype, tied, id=f"{dialect.name}-{dtype}-{'tied' if tied else 'untied'}")
    for dialect in DIALECTS.values()
    for dtype in sorted(OF_WEIGHTS.values(), key=str)
    for tied in (False, True)
    if not tied or (dtype == "float32" and any(isinstance(row, Alias) for row in dialect.rows))
]


def shapes(dialect: Dialect) -> dict[str, tuple[int, ...]]:
    config = config_of(dialect)
    tensors = to_torch(dialect, config, random_params(config, np.dtype("float32"), dialect))
    return {name: value.shape for name, value in tensors.items()}


def fitted(dialect: Dialect, tensors: dict[str, np.ndarray], seen: Tensors | None = None) -> Fit:
    """The fit of `dialect` to `tensors`; `seen` has their shapes, for several dialects."""
    seen = seen or Tensors({name: value.shape for name, value in tensors.items()})
    found = fit(settle(dialect, seen), seen.shapes, {"head": config_of(dialect).num_heads})
    weighed = (
        values.weigh(found.dialect, found.sizes, tensors.__getitem__)
        if not found.problems
        else None
    )
    return replace(found, dialect=weighed.dialect) if weighed else found


def require_identity(
    dialect: Dialect, config: ModelConfig, params: Tree, tensors: dict[str, np.ndarray]
) -> None:
    found = fitted(dialect, tensors)
    assert not found.problems
    back = flatten(to_flax(found.dialect, config, tensors.__getitem__))
    assert back.keys() == flatten(params).keys()
    dtypes = {name: array.dtype for name, array in tensors.items()}
    one_by_one = deferred(found.dialect, config, tensors.__getitem__, dtypes)
    assert one_by_one.keys() == back.keys()
    for path, leaf in one_by_one.items():
        made = leaf.make()
        assert (leaf.shape, leaf.dtype) == (made.shape, made.dtype)
        assert made.tobytes() == back[path].tobytes()
    scaled = {row.flax.name for row in found.dialect.rows if isinstance(row, Scaled)}
    for path, value in flatten(params).items():
        assert back[path].dtype == value.dtype
        if path in scaled:  # by a factor with which nothing is exact but the way back to the file
            exact = back[path].astype("float64") - value.astype("float64")
            step = float(ml_dtypes.finfo(value.dtype).eps)
            assert np.abs(exact).max() <= 2 * step * np.abs(value.astype("float64")).max()
            continue
        assert back[path].tobytes() == value.tobytes(), path


@pytest.mark.parametrize(("dialect", "dtype", "tied"), MOVED)
def test_there_and_back_is_identity_bit_for_bit(
    dialect: Dialect, dtype: np.dtype, tied: bool
) -> None:
    config = config_of(dialect, tied)
    params = random_params(config, dtype, dialect)
    tensors = to_torch(dialect, config, params)
    require_identity(dialect, config, params, tensors)
    again = to_torch(fitted(dialect, tensors).dialect, config, params)
    assert [*again] == [*tensors]
    assert all(again[name].tobytes() == value.tobytes() for name, value in tensors.items())


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_threads_move_the_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which move all but small tensors."""
    for module in (parameters, regroup):
        monkeypatch.setattr(module, "SMALL", 0)
    config = config_of(DIALECTS[name])
    params = random_params(config, np.dtype("float32"))
    require_identity(DIALECTS[name], config, params, to_torch(DIALECTS[name], config, params))


def downs_of(glu: str) -> set[str]:
    """What classes call the matrix that leads back from a gate and a value of the names `glu`."""
    names = {word.rpartition("=")[2] for word in glu.split()}
    named = {down for gate, up, down in map(str.split, NAMED) if {gate, up} == names}
    numbered = [{*each.split()} - names for each in NUMBERED if names < {*each.split()}]
    return named.union(*numbered)


def reworded(dialect: Dialect, seed: int) -> Dialect:
    """The dialect with any of its own words in every place."""
    words = random.Random(seed)
    choices = dict.fromkeys(choice for row in dialect.rows for choice in row.torch.choices)
    chosen = {choice: words.choice(choice.words) for choice in choices}
    spellings = {axis: (words.choice(each),) for axis, each in dialect.words.items()}
    pair = words.choice(PAIRS.split()).split("/")  # nobody mixes these
    if not any("net.0" in choice.words for choice in choices):  # gate and up have one of their own
        pair = ["", words.choice(["down_proj", "w2", "c_proj", "down"])]
    downs = downs_of(*spellings.get("glu", ("",)))
    for choice in choices:
        if usual := downs & {*choice.words}:
            chosen[choice] = words.choice(sorted(usual))
        if {"net.0", "net.2"} & {*choice.words}:
            chosen[choice] = next((w for w in pair if w in choice.words), chosen[choice])
    rows = tuple(replace(row, torch=row.torch.worded(chosen)) for row in dialect.rows)
    return replace(dialect, rows=rows, words=spellings)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("dialect", FAMILIES, ids=lambda dialect: dialect.name)
def test_a_family_reads_every_wording_of_its_own(dialect: Dialect, seed: int) -> None:
    other = reworded(dialect, seed)
    config = config_of(dialect)
    params = random_params(config, np.dtype("float32"), dialect)
    require_identity(dialect, config, params, to_torch(other, config, params))


def modern_config(dialect: Dialect) -> ModelConfig:
    """What a variant of a family may have besides the fields of the first GPTs.

    Heads share keys if they can.
    """
    views = [row.flax for row in dialect.rows if isinstance(row, Row)]
    names = {view.name for view in views}
    of_heads = "before_rotary" if "blocks/attn/q_norm/scale" in names else "none"
    modern = {
        "positions": "rotary", "norm_kind": "rms", "norm_bias": False, "num_heads": 6,
        "num_kv_heads": 2 if dialect.grouped else 6, "head_dim": 4, "mlp_dim": 41,
        "mlp_gated": "blocks/mlp/gate_up/kernel" in names,
        "qk_norm": "full_width" if norms_full_width(views) else of_heads,
    }  # fmt: skip
    if any(map(shares_by_heads, dialect.rows)):
        modern["model_dim"] = 36
    return ModelConfig(**{**vars(config_of(dialect)), **modern})


VARIANTS = [
    pytest.param(dialect, i, id=f"{dialect.name}-{i}")
    for dialect in FAMILIES
    for i in range(len(dialect.variants))
]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("dialect", "variant"), VARIANTS)
def test_a_family_reads_every_modern_wording_of_its_own(
    dialect: Dialect, variant: int, seed: int
) -> None:
    """Shapes tell which of three numbered matrices leads back; words tell the gate from its value."""
    config = modern_config(dialect.variants[variant])
    params = random_params(config, np.dtype("float32"), dialect)
    tensors = to_torch(reworded(dialect.variants[variant], seed), config, params)
    held = {name: value.shape for name, value in tensors.items()}
    given = {"num_heads": 6, "num_kv_heads": config.num_kv_heads, "head_dim": 4}
    found = one_side.fit_of(dialect, Inputs(held, tensors.__getitem__, "w.pt", given, {}))
    assert not found.problems
    weighed = values.weigh(found.dialect, found.sizes, tensors.__getitem__)
    back = flatten(to_flax(weighed.dialect, config, tensors.__getitem__))
    assert back.keys() == flatten(params).keys()
    for path, value in flatten(params).items():
        assert back[path].tobytes() == value.tobytes(), path


def axes_of(view: View) -> list[str]:
    """The axes of `view`; those of key heads and their groups are one, that of heads."""
    spread = [stride(word).axis for word in re.findall(r"{(\w+)}", view.name)]
    axes = [*spread, *itertools.chain(*view.dims)]
    axes = ["qkv" if axis in QKV else axis for axis in axes]
    return ["head" if axis == "kv" else axis for axis in axes if axis != "group"]


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
def test_rows_agree_on_their_axes(dialect: Dialect) -> None:
    tensors = to_torch(
        dialect, config_of(dialect), random_params(config_of(dialect), np.dtype("float32"), dialect)
    )
    for flax, torch in fitted(dialect, tensors).dialect.views:
        ours, theirs = axes_of(flax), axes_of(torch)
        if any(map(shares_by_heads, dialect.rows)) and "head" not in theirs:
            ours = [axis for axis in ours if axis != "head"]
        assert sorted(ours) == sorted(theirs), flax.name


def test_dialects_of_the_same_names_mean_the_same() -> None:
    """Else one of the two would be silently wrong; classes take precedence over families."""
    alone = [dialect for dialect in DIALECTS.values() if not dialect.yields_to]
    for dialect in alone:
        config = config_of(dialect)
        tensors = to_torch(dialect, config, random_params(config, np.dtype("float32"), dialect))
        seen = Tensors({name: value.shape for name, value in tensors.items()})
        fits = [found for other in alone if not (found := fitted(other, tensors, seen)).problems]
        classes = [found for found in fits if not found.dialect.family]
        tables = [meanings(found.dialect, found.sizes) for found in classes or fits]
        assert tables
        assert all(table == tables[0] for table in tables)


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
    without_head = {
        n: s for n, s in shapes(dialect).items() if not n.startswith(f"{BLOCK}.attention_heads.2")
    }
    assert len(fit(dialect, without_head).problems) == 3
    without_block = {
        n: s for n, s in shapes(dialect).items() if not n.startswith("transformer_blocks.1.")
    }
    assert all(
        "transformer_blocks.1." in problem for problem in fit(dialect, without_block).problems
    )
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
        "made-up",
        "",
        (
            row("token_embedding/embedding : v d", "wte : v d"),
            row("blocks/attn/qkv/kernel : layer d head qkv k", "h.{layer}.attn : d (qkv head k)"),
            row("blocks/attn/out/kernel : layer head k d", "h.{layer}.out : head k d"),
        ),
        {},
    )
    found = fit(dialect, {"wte": (11, 6), "h.0.attn": (6, 30), "h.0.out": (2, 5, 6)})
    assert not found.problems
    assert dict(found.sizes) == {"v": 11, "d": 6, "layer": 1, "kv": 2, "group": 1, "k": 5}
    found = fit(dialect, {"wte": (11, 6), "h.0.attn": (6, 33), "h.0.out": (2, 5, 6)})
    assert found.problems == ["h.0.attn is (6, 33), expected d (qkv head k) = (6, 30)"]


def test_a_name_that_two_rows_claim_is_a_problem() -> None:
    rows = (row("a : d", "x.{layer} : d"), row("b : d", "x.0 : d"))
    assert "x.0 is claimed by 2 rows" in fit(Dialect("twice", "", rows, {}), {"x.0": (3,)}).problems


def test_a_model_that_the_dialect_cannot_hold_is_refused() -> None:
    tied = ModelConfig(**{**vars(PRIME_CONFIG), "tied": True, "qkv_bias": True})
    with pytest.raises(
        UserError, match=r"it has no head/kernel.*its blocks/attn/qkv/bias has no place"
    ):
        to_torch(DIALECTS["gpt"], tied, random_params(tied, np.dtype("float32")))
    shifted = ModelConfig(**{**vars(PRIME_CONFIG), "positions_offset": 2})
    with pytest.raises(
        UserError, match="its positions_offset is 2, but 0 in all of this dialect's files"
    ):
        to_torch(DIALECTS["gpt"], shifted, random_params(shifted, np.dtype("float32")))


def test_a_bias_that_only_the_class_has_is_zero() -> None:
    without = ModelConfig(**{**vars(PRIME_CONFIG), "head_bias": False})
    tensors = to_torch(DIALECTS["gpt"], without, random_params(without, np.dtype("float16")))
    assert tensors["vocab_projection.bias"].dtype == np.float16
    assert not tensors["vocab_projection.bias"].any()


def test_nothing_where_blocks_or_heads_should_be_is_a_problem() -> None:
    for part in ("transformer_blocks", "attention_heads"):
        left = {name: shape for name, shape in shapes(DIALECTS["gpt"]).items() if part not in name}
        assert any(
            part in problem and "missing" in problem
            for problem in fit(DIALECTS["gpt"], left).problems
        )


def test_only_floats_of_one_kind_are_weights() -> None:
    with pytest.raises(UserError, match="f.pt: .* a is int8; b is complex64"):
        require_floats(
            {"a": np.dtype("int8"), "b": np.dtype("complex64"), "c": np.dtype("float16")}, "f.pt"
        )
    names = [f"transformer_blocks.{i}.layer_norm_one.bias" for i in range(2)]
    mixed = dict(zip(names, (np.dtype("float32"), np.dtype(ml_dtypes.bfloat16)), strict=True))
    with pytest.raises(UserError, match="layer_norm_one.bias has bfloat16 and float32"):
        require_one_dtype_per_row(DIALECTS["gpt"], mixed, "f.pt")
    require_one_dtype_per_row(DIALECTS["gpt"], dict.fromkeys(names, np.dtype("float16")), "f.pt")


def test_heads_keep_their_order() -> None:
    """Head 2 of the file is head 2 of the array, key by key: a permutation would also survive the round trip."""
    dialect = DIALECTS["gpt"]
    tensors = to_torch(
        dialect, PRIME_CONFIG, params := random_params(PRIME_CONFIG, np.dtype("float32"))
    )
    kernel = params["blocks"]["attn"]["qkv"]["kernel"]
    for i, name in enumerate(("query", "key", "value")):
        found = tensors[f"{BLOCK}.attention_heads.2.{name}_layer.weight"]
        np.testing.assert_array_equal(found, kernel[1, :, 2, i].T)


def test_a_name_that_only_one_row_can_mean_decides_first() -> None:
    """`blocks.0.proj` could be a second matrix of an MLP without a module; with `blocks.0.ff.2` there, it is not."""
    dialect = DIALECTS["heads"]
    config = config_of(dialect)
    params = random_params(config, np.dtype("float32"))
    renames = {".mha.proj.": ".proj.", ".ffn.net.": ".ff."}
    tensors = {}
    for name, array in to_torch(dialect, config, params).items():
        for old, new in renames.items():
            name = name.replace(old, new)
        tensors[name] = array
    require_identity(dialect, config, params, tensors)
