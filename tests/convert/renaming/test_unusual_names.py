"""Files of classes in unusual styles: attributes instead of lists, bare parameters, (in, out), other words."""

import re
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import convert  # noqa: E402
from convert.detect.detect import detect_renamed  # noqa: E402
from convert.reference import GPT  # noqa: E402
from jaxgpt.config import ModelConfig  # noqa: E402
from jaxgpt.errors import UserError  # noqa: E402
from jaxgpt.pytree import flatten  # noqa: E402
from jaxgpt.seq2seq_config import Seq2SeqConfig  # noqa: E402
from tests.classes import pairs  # noqa: E402
from tests.convert.test_few_tensors import decoder  # noqa: E402
from tests.convert.test_open_orders import SIZES  # noqa: E402

GIVEN = {"num_heads": 4}
State = dict[str, Any]


def renamed(state: State, *changes: tuple[str, str]) -> State:
    """The tensors with each pattern in their names replaced."""
    for old, new in changes:
        state = {re.sub(old, new, name): value for name, value in state.items()}
    return state


def turned(state: State, names: str) -> State:
    """The tensors with the matrices of `names` as (in, out)."""
    return {
        n: v.mT.contiguous() if v.ndim > 1 and re.search(names, n) else v for n, v in state.items()
    }


def numbered_from_one(state: State) -> State:
    return {
        re.sub(r"blocks\.(\d)", lambda m: f"dec.block_{int(m[1]) + 1}", n): v
        for n, v in state.items()
    }


def by_head(state: State, name: str) -> State:
    """The tensors with queries, keys and values of each head as parameters, called by `name`."""
    new: State = {}
    for key, value in state.items():
        match = re.fullmatch(r"(blocks\.\d\.attn\.)([qkv])_proj\.weight", key)
        if not match:
            new[key] = value
        for head, part in enumerate(value.chunk(4) if match else ()):
            new[match[1] + name.format(part=match[2], head=head)] = part.mT.contiguous()
    return new


def stacked(state: State) -> State:
    """The tensors with queries, keys, values and outputs of all heads in stacks of matrices."""
    new: State = {}
    for key, value in state.items():
        if re.search(r"attn\.[qkv]_proj\.weight", key):
            new[re.sub(r"([qkv])_proj\.weight", r"W_\1", key)] = value.unflatten(
                0, (4, -1)
            ).mT.contiguous()
        elif "o_proj.weight" in key:
            new[key.replace("o_proj.weight", "W_o")] = value.mT.unflatten(0, (4, -1)).contiguous()
        else:
            new[key] = value
    return new


BARE = ((r"(q|k|v|o)_proj\.weight", r"w\1"), (r"(q|k|v|o)_proj\.bias", r"b\1"))
INSIDE = ((r"attn\.", ""), (r"mlp\.", ""))
MLP = (
    (r"up_proj\.weight", "w1"),
    (r"up_proj\.bias", "b1"),
    (r"down_proj\.weight", "w2"),
    (r"down_proj\.bias", "b2"),
)
NORMS = ((r"norm(\d)\.weight", r"ln\1_g"), (r"norm(\d)\.bias", r"ln\1_b"))
FORMS = {
    "blocks as attributes": lambda s: renamed(s, (r"blocks\.", "block_")),
    "blocks from one in a module": lambda s: renamed(numbered_from_one(s), (r"^norm\.", "dec.norm.")),
    "another list": lambda s: renamed(s, (r"blocks\.", "model.tower."), (r"^norm\.", "model.norm.")),
    "attention in the block": lambda s: renamed(s, INSIDE[0]),
    "bare parameters": lambda s: renamed(s, *BARE, *MLP),
    "bare and turned": lambda s: turned(renamed(s, *BARE, *MLP), r"\.w[qkvo12]$"),
    "all bare in the block": lambda s: turned(renamed(s, *INSIDE, *BARE, *MLP, *NORMS), r"\.w[qkvo12]$"),
    "all turned": lambda s: turned(s, r"blocks.*_proj"),
    "greek norms": lambda s: renamed(s, (r"norm(\d)\.weight", r"gamma\1"), (r"norm(\d)\.bias", r"beta\1")),
    "own linear layers": lambda s: turned(
        renamed(s, (r"_proj\.weight", "_proj.W"), (r"_proj\.bias", "_proj.b")), r"_proj\.W"
    ),
    "heads in lists": lambda s: by_head(s, "heads.{head}.w{part}"),
    "heads as attributes": lambda s: by_head(s, "head{head}.w{part}"),
    "lists of heads": lambda s: by_head(s, "w{part}.{head}"),
    "heads in names": lambda s: by_head(s, "w{part}_{head}"),
    "stacks of heads": lambda s: stacked(renamed(s, (r"o_proj\.bias", "b_o"))),
    "another MLP": lambda s: renamed(s, (r"mlp\.up_proj", "think.wide"), (r"mlp\.down_proj", "think.narrow")),
    "another attention": lambda s: renamed(s, (r"attn\.", "look."), ("o_proj", "merger")),
    "lettered norms": lambda s: renamed(s, ("norm1", "calm_a"), ("norm2", "calm_b")),
}  # fmt: skip


def equal(one: Any, two: Any) -> bool:
    one, two = flatten(one.params), flatten(two.params)
    return one.keys() == two.keys() and all(np.array_equal(one[path], two[path]) for path in two)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_tensors_in_another_form_are_the_same_model(form: str) -> None:
    heads = "heads" in form
    plain = decoder(qkv_bias=not heads).state_dict()
    other = FORMS[form](plain)
    assert list(other) != list(plain) or form == "all turned"
    loaded = convert.to_flax(other, **({} if heads else GIVEN))
    assert equal(loaded, convert.to_flax(plain, **GIVEN))
    back = convert.to_torch(loaded.params, loaded.config, loaded.dialect)
    assert list(back) == list(other)
    assert all(torch.equal(back[name], value) for name, value in other.items())


def test_square_matrices_of_which_nothing_tells_the_orientation_are_refused() -> None:
    state = renamed(decoder(mlp_dim=24).state_dict(), *BARE, *MLP)
    with pytest.raises(
        UserError, match=r"nothing in it shows whether its matrices are \(in, out\)"
    ):
        convert.to_flax(state, **GIVEN)


def test_a_part_of_a_known_class_is_not_read_under_other_names() -> None:
    state = GPT(29, 8, 12, 2, 3).state_dict()
    part = {name: value for name, value in state.items() if "layer_norm_three" not in name}
    with pytest.raises(UserError, match=r"The nearest is gpt .*layer_norm_three.* is missing"):
        convert.to_flax(part)


PAIR_FORMS = {
    "other words": ((r"encoder\.layers", "enc_blks"), (r"decoder\.layers", "dec_blks")),
    "words of nothing": ((r"encoder\.layers\.", "reader_"), (r"decoder\.layers\.", "writer_")),
    "letters": ((r"^encoder", "model.E"), (r"^decoder", "model.G")),
    "other modules": (("cross_attn", "peek"), ("ffn", "think"), (r"norm(\d)", r"n\1")),
}  # fmt: skip


@pytest.mark.parametrize("form", PAIR_FORMS)
def test_the_sides_of_a_pair_are_told_by_their_tensors(form: str) -> None:
    side = {
        **{name: SIZES[name] for name in ("vocab_size", "context_length", "model_dim")},
        "mlp_dim": 20,
    }
    side |= {"num_blocks": 2, "num_heads": 4, "positions": "learned", "dropout": 0.0}
    config = Seq2SeqConfig(ModelConfig(**side), ModelConfig(**side, cross_attention=True))
    plain = pairs.randomised(pairs.Plain(config, {}, ""), 1).state_dict()
    other = renamed(plain, *PAIR_FORMS[form])
    loaded = convert.to_flax(other, **GIVEN)
    assert equal(loaded, convert.to_flax(plain, **GIVEN))
    back = convert.to_torch(loaded.params, loaded.config, loaded.dialect)
    assert list(back) == list(other)
    assert all(torch.equal(back[name], value) for name, value in other.items())


def test_a_word_of_self_attention_is_no_cross_attention() -> None:
    side = {
        **{name: SIZES[name] for name in ("vocab_size", "context_length", "model_dim")},
        "mlp_dim": 20,
    }
    side |= {"num_blocks": 2, "num_heads": 4, "positions": "learned", "dropout": 0.0}
    config = Seq2SeqConfig(ModelConfig(**side), ModelConfig(**side, cross_attention=True))
    plain = pairs.randomised(pairs.Plain(config, {}, ""), 1).state_dict()
    swapped = (r"decoder(.*)self_attn", r"decoder\1my_masked"), ("cross_attn", "self_attn")
    with pytest.raises(UserError, match="do not fit|fit no known dialect"):
        convert.to_flax(renamed(plain, *swapped), **GIVEN)


def test_a_config_with_an_impossible_model_type_is_no_error_of_its_own() -> None:
    shapes = {"a.weight": (3, 4)}
    config = {"architectures": ["A"], "model_type": [1]}
    read = {name: np.zeros(shape) for name, shape in shapes.items()}.__getitem__
    assert detect_renamed(shapes, read, "a.pt", configs={"config.json": config}) is None
