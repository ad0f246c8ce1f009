import numpy as np
import pytest

from convert.detect.values import weigh
from convert.rows.buffers import FORMS, form_of, made
from convert.rows.dialect import Dialect
from convert.rows.kinds import EMBEDDING, HEAD, POSITIONS, Kind, mask, norm, row, tied
from jaxgpt.model.positions import sinusoids

EMBED = row(EMBEDDING.text, "wte : v d")


def weighed(tensors: dict[str, np.ndarray], *rows: Kind):
    return weigh(Dialect("", "", rows), {"layer": 2, "t": 5}, tensors.__getitem__)


@pytest.mark.parametrize("dtype", ["float32", "bool", "uint8", "float16"])
@pytest.mark.parametrize("kind", [*FORMS, "-inf", "-10000.0"])
def test_each_form_of_a_causal_mask_is_told_and_made_again(kind: str, dtype: str) -> None:
    if kind not in FORMS and not dtype.startswith("float"):
        return
    array = made(kind, 5, dtype)
    assert array.dtype == dtype
    assert form_of(array) == form_of(array.reshape(1, 1, 5, 5)) == kind
    for wrong in (array.T, np.ones((5, 5), dtype), np.roll(array, 1, axis=0)):
        assert form_of(wrong) == ""


def test_masks_that_differ_are_a_problem() -> None:
    masks = mask("h.{layer}.mask : t t")
    same = {f"h.{layer}.mask": made("upper", 5, "bool") for layer in range(2)}
    evidence = weighed(same, masks)
    assert not evidence.problems
    assert evidence.marks == {"mask"}
    assert [(each.form, each.dtype) for each in evidence.dialect.rows] == [("upper", "bool")]
    assert weighed(same | {"h.1.mask": made("lower", 5, "bool")}, masks).problems == [
        "h.0.mask and h.1.mask are not the same mask"
    ]


def test_a_tied_head_holds_the_bits_of_the_embedding() -> None:
    table = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    same = weighed({"wte": table, "head": table.copy()}, EMBED, tied("head : v d"))
    assert same.dialect.rows[1].flax == EMBEDDING
    other = table.copy()
    other[6, 2] = np.nextafter(other[6, 2], 9)
    nearly = weighed({"wte": table, "head": other}, EMBED, tied("head : v d"))
    assert nearly.dialect.rows[1].flax == HEAD
    assert nearly.marks == {"untied"}


@pytest.mark.parametrize("shape", [(16, 8), (1, 16, 8), (16, 1, 8)])
def test_sinusoids_are_told_from_a_learned_table(shape: tuple[int, ...]) -> None:
    dims = {2: "t d", 3: "() t d" if shape[0] == 1 else "t () d"}[len(shape)]
    positions = row(f"{POSITIONS} : t d", f"pe : {dims}")
    table = sinusoids(16, 8).astype(np.float32).reshape(shape)
    assert weighed({"pe": table}, positions).read == {
        "positions": "sinusoidal",
        "positions_stored": True,
    }
    halves = np.concatenate([table[..., 0::2], table[..., 1::2]], axis=-1)
    for other in (table + 0.01, halves, table[..., ::-1]):
        assert weighed({"pe": other}, positions).read["positions"] == "learned"


def test_a_norm_that_training_never_moved_is_hinted_at() -> None:
    rows = norm("final_norm", "ln_f")
    untouched = {"ln_f.weight": np.ones(3), "ln_f.bias": np.zeros(3)}
    assert "was it ever applied" in weighed(untouched, *rows).hints["final_norm"]
    assert not weighed(untouched | {"ln_f.bias": np.full(3, 1e-9)}, *rows).hints


def test_norms_around_zero_are_hinted_at_where_they_have_no_biases() -> None:
    draw = np.random.default_rng(0).normal(size=64) * 0.1
    plain = norm("final_norm", "ln_f", "no")
    assert (
        "multiplies by 1 + weight"
        in weighed({"ln_f.weight": draw}, *plain).hints["norm_unit_offset"]
    )
    for other in (1 + draw, 0.2 + 0.1 * draw):
        assert not weighed({"ln_f.weight": other}, *plain).hints
    biased = {"ln_f.weight": draw, "ln_f.bias": draw}
    assert not weighed(biased, *norm("final_norm", "ln_f")).hints
