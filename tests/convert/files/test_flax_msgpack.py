"""flax_model.msgpack of transformers' Flax classes is read as the PyTorch file of the same class."""

import contextlib
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from flax import serialization
from hypothesis import given
from hypothesis import strategies as st

from convert.files import checkpoints
from convert.files.one_file import open_file
from jaxgpt.errors import UserError

FILE = "flax_model.msgpack"
WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)
TREE = {"h": {"0": {"fc": {"kernel": WEIGHT, "bias": np.ones(3, np.float32)}}}}


def written(folder: Path, tree: Any) -> Path:
    (folder / FILE).write_bytes(serialization.to_bytes(tree))
    return folder / FILE


def test_names_and_layout_are_those_of_torch(tmp_path: Path) -> None:
    half = np.arange(4).astype(ml_dtypes.bfloat16)
    tree = {**TREE, "ln": {"scale": half}, "wte": {"embedding": WEIGHT}, "loose": np.ones((1, 2))}
    for name, outer in (("bare", tree), ("params", {"params": tree})):
        (tmp_path / name).mkdir()
        tensors = open_file(written(tmp_path / name, outer)).tensors
        assert [*tensors] == ["h.0.fc.weight", "h.0.fc.bias", "ln.weight", "wte.weight", "loose"]
        read = {name: tensor.read() for name, tensor in tensors.items()}
        np.testing.assert_array_equal(read["h.0.fc.weight"], WEIGHT.T)
        np.testing.assert_array_equal(read["wte.weight"], WEIGHT)
        assert read["ln.weight"].tobytes() == half.tobytes()
        for name, tensor in tensors.items():
            assert read[name].shape == tensor.shape
            assert read[name].dtype == tensor.dtype
            assert read[name].flags.c_contiguous
            assert not read[name].flags.writeable


def as_flax(state: dict[str, Any], kinds: dict[str, str]) -> Any:
    """The tree of the Flax class: the reverse of what is read, by the torch module's parts."""
    tree: dict[str, Any] = {}
    for name, value in state.items():
        *path, last = name.split(".")
        kind, array = kinds.get(".".join(path), ""), value.numpy()
        if last == "weight" and kind in ("Linear", "Conv1D"):
            last = "kernel"
            array = array.T  # (in, out) of a Dense; (out, in) of what was a Conv1D in Flax
        elif last == "weight":
            last = "scale" if kind == "LayerNorm" else "embedding"
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = np.ascontiguousarray(array)
    return tree


def gpt2(transformers: Any) -> Any:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=31, n_positions=16, n_embd=8, n_layer=2, n_head=2)
    )


def opt(transformers: Any) -> Any:
    return transformers.OPTForCausalLM(
        transformers.OPTConfig(
            vocab_size=31, max_position_embeddings=16, hidden_size=8, word_embed_proj_dim=8,
            ffn_dim=24, num_hidden_layers=2, num_attention_heads=2,
        )
    )  # fmt: skip


def bart(transformers: Any) -> Any:
    return transformers.BartForConditionalGeneration(
        transformers.BartConfig(
            vocab_size=31, max_position_embeddings=16, d_model=8, encoder_layers=2,
            decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=24, decoder_ffn_dim=24,
        )
    )  # fmt: skip


@pytest.mark.parametrize("make", [gpt2, opt, bart], ids=lambda make: make.__name__)
@pytest.mark.parametrize("whole_folder", [True, False], ids=["folder", "file"])
def test_logits_are_those_of_the_torch_class(
    make: Any, whole_folder: bool, tmp_path: Path, command: Any
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    import convert
    import jaxgpt

    torch.manual_seed(0)
    module = make(transformers).eval()
    for value in module.parameters():
        torch.nn.init.normal_(value, std=0.3)
    aliases = ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    if make is opt:
        aliases = aliases[:1]
    state = {n: v for n, v in module.state_dict().items() if not n.endswith(aliases)}
    kinds = {name: type(part).__name__ for name, part in module.named_modules()}
    folder = tmp_path / "hub"
    folder.mkdir()
    file = written(folder, as_flax(state, kinds))
    (folder / "config.json").write_text(json.dumps(module.config.to_dict()))
    outcome = command("jaxgpt-convert", "to-flax", folder if whole_folder else file, tmp_path / "m")
    assert outcome.code == 0, outcome
    model = jaxgpt.load(tmp_path / "m")
    ids = np.random.default_rng(0).integers(3, 31, (2, 9))
    source = np.random.default_rng(1).integers(3, 31, (2, 7)) if make is bart else None
    convert.assert_same(module, model, ids, source=source)
    if whole_folder:  # whose config names no class: "architectures" is null in it
        verification = convert.verify(folder, tmp_path / "m")
        assert verification.verdict == "proven", verification.first_difference
    back = convert.to_torch(jaxgpt.params_of(model), model.config, make.__name__)
    for name, value in state.items():
        assert back[name].numpy().tobytes() == value.numpy().tobytes(), name


def test_a_torch_file_in_the_folder_is_preferred(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    written(tmp_path, TREE)
    save_file({"w": WEIGHT}, tmp_path / "model.safetensors")
    checkpoint = checkpoints.read(tmp_path)
    assert [*checkpoint.tensors] == ["w"]
    assert checkpoint.aside == (FILE,)


GOOD = serialization.to_bytes(TREE)
ARRAY = GOOD[GOOD.index(b"\xc7") :]  # of the kernel, and what follows


def damaged(old: bytes, new: bytes) -> bytes:
    assert GOOD.count(old) >= 1
    return GOOD.replace(old, new, 1)


HOSTILE = {
    "cut": (GOOD[:-3], "should end at byte"),
    "longer": (GOOD + b"\x00", r"its map ends at byte \d+ of \d+"),
    "huge shape": (
        damaged(b"\x92\x02\x03", b"\x92\x02\x7f"), r"float32 \(2, 127\), 1016 bytes, but has 24"
    ),
    "no such dtype": (damaged(b"\xa7float32", b"\xa7object_"), "has the dtype object_"),
    "another extension": (damaged(b"\x01\x93\x92", b"\x02\x93\x92"), "is no array"),
    "a length beyond the end": (
        GOOD[: GOOD.index(b"\xc7")] + b"\xc9\xff\xff\xff\xff\x01\x93", "should end at byte 42949"
    ),
    "a number for an array": (b"\x81\xa1a\x05", "a is no array"),
    "a list": (b"\x81\xa1a\x91\x05", "a is no array"),
    "names that are numbers": (b"\x82\xa1a\x80\x01\x02", "a name should begin at byte 4"),
    "the same name twice": (b"\x82\xa1a\x80\xa1a\x80", "the name a is there twice"),
    "two arrays of one name in torch": (
        serialization.to_bytes({"a": {"scale": WEIGHT, "embedding": WEIGHT}}),
        r"two of its arrays are both a\.weight in torch",
    ),
    "a map of four billion": (b"\xdf\xff\xff\xff\xff\xa1a\x80", "ends at byte 8"),
    "deep": (b"\x81\xa1a" * 1000, "nested more than 32 deep"),
    "a long name": (b"\x81\xdb\xff\xff\xff\xff", "a name of 4294967295 bytes"),
    "a name in Latin-1": (b"\x81\xa2a\xff\x80", "the name that ends at byte 4 is not UTF-8"),
    "terminal commands": (b"\x81\xa5\x1b[31m\x05", r"\\x1b\[31m is no array"),
    "nothing": (b"\x81\xa1a\x80", "holds no tensors"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str, tmp_path: Path) -> None:
    data, problem = HOSTILE[name]
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(UserError, match=problem) as raised:
        checkpoints.read(tmp_path / FILE)
    assert "\n" not in str(raised.value)
    assert "\x1b" not in str(raised.value)


def test_many_empty_maps_are_bounded(tmp_path: Path) -> None:
    rest = b"".join(b"\xa5%05d\x80" % (i % 100_000) for i in range(100_001))
    (tmp_path / FILE).write_bytes(b"\xdf" + (100_001).to_bytes(4, "big") + rest)
    with pytest.raises(UserError, match="more than 100000 names"):
        checkpoints.read(tmp_path / FILE)


@given(place=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255))
def test_no_changed_byte_does_more_than_be_refused(
    place: int, byte: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.msgpack"
    path.write_bytes(GOOD[:place] + bytes([byte]) + GOOD[place + 1 :])
    with contextlib.suppress(UserError):
        for tensor in checkpoints.read(path).tensors.values():
            tensor.read()
