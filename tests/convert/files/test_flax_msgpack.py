"""flax_model.msgpack of transformers' Flax classes is read as the PyTorch file of the same class."""

import contextlib
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from flax import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.files import checkpoints, shards
from convert.files.one_file import open_file
from jaxgpt.errors import UserError
from jaxgpt.pytree import unflatten

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


def in_chunks(tree: Any, largest: int = 8) -> bytes:
    """The file in which Flax cuts arrays of more than `largest` bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serialization, "MAX_CHUNK_SIZE", largest)
        data: bytes = serialization.to_bytes(tree)
    return data


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_array_in_chunks_is_read_as_a_whole(dtype: str, tmp_path: Path) -> None:
    kernel = np.arange(35).astype(dtype).reshape(5, 7)
    tree = {"fc": {"kernel": kernel, "bias": np.ones(2, dtype)}, "wte": {"embedding": kernel}}
    data = in_chunks(tree)
    assert data.count(b"__msgpack_chunked_array__") == 2
    (tmp_path / FILE).write_bytes(data)
    tensors = open_file(tmp_path / FILE).tensors
    assert tensors["fc.weight"].shape == (7, 5)
    for name, wanted in (("fc.weight", kernel.T), ("wte.weight", kernel)):
        found = tensors[name].read()
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        assert found.tobytes() == wanted.tobytes()
        assert found.flags.c_contiguous
        assert not found.flags.writeable


def in_shards(folder: Path, shards: list[dict[str, Any]]) -> Path:
    """The index of `shards`, each a map from paths such as h/0/fc/kernel to arrays."""
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"flax_model-{number:05}-of-{len(shards):05}.msgpack"
        (folder / file).write_bytes(serialization.to_bytes(unflatten(shard)))
        weight_map |= dict.fromkeys(shard, file)
    index = folder / f"{FILE}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("root", ["", "params/"])
def test_shards_are_read_one_at_a_time(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {f"{root}h/0/fc/kernel": WEIGHT, f"{root}h/0/fc/bias": np.ones(3, np.float32)}
    index = in_shards(tmp_path, [first, {f"{root}wte/embedding": WEIGHT}])
    opened: list[str] = []
    monkeypatch.setattr(
        shards, "open_file", lambda path: (opened.append(path.name), open_file(path))[1]
    )
    for path in (index, tmp_path):
        checkpoint = checkpoints.read(path)
        assert checkpoint.container == "Flax msgpack in 2 shards"
        assert [*checkpoint.tensors] == ["h.0.fc.weight", "h.0.fc.bias", "wte.weight"]
        np.testing.assert_array_equal(checkpoint.tensors["h.0.fc.weight"].read(), WEIGHT.T)
        np.testing.assert_array_equal(checkpoint.tensors["wte.weight"].read(), WEIGHT)
    assert opened == ["flax_model-00001-of-00002.msgpack", "flax_model-00002-of-00002.msgpack"] * 4


def test_shards_that_are_not_as_listed_are_refused(tmp_path: Path) -> None:
    kernel, table = {"fc/kernel": WEIGHT}, {"wte/embedding": WEIGHT}
    index = in_shards(tmp_path, [kernel, table])
    listed = json.loads(index.read_text())

    def refused(weight_map: dict[str, str], problem: str) -> None:
        index.write_text(json.dumps({**listed, "weight_map": weight_map}))
        with pytest.raises(UserError, match=problem):
            checkpoints.read(tmp_path)

    first, second = listed["weight_map"].values()
    for outside in ("../x.msgpack", "/x.msgpack", ".."):
        refused({"fc/kernel": outside}, "shards must be in the folder of their index")
    refused({"fc/kernel": "flax_model-00003-of-00002.msgpack"}, "which is not there")
    refused({"fc/kernel": first, "fc/bias": first}, r"says that fc\.bias is in .*, but it is not")
    refused({"fc/kernel": second, "wte/embedding": first}, r"says that fc\.weight is in")
    in_shards(tmp_path, [kernel, {**kernel, **table}])
    refused({"fc/kernel": first, "wte/embedding": second}, "more than one of its shards")


GOOD = serialization.to_bytes(TREE)
CUT = in_chunks({"a": {"kernel": WEIGHT}})  # (2, 3) in chunks of 2, 2 and 2
CHUNK = serialization.to_bytes(np.zeros(2, np.float32))  # 24 bytes
ARRAY = GOOD[GOOD.index(b"\xc7") :]  # of the kernel, and what follows


def damaged(old: bytes, new: bytes, data: bytes = GOOD) -> bytes:
    assert old in data
    return data.replace(old, new, 1)


def cut(old: bytes, new: bytes) -> bytes:
    return damaged(old, new, CUT)


HOSTILE = {
    "cut": (GOOD[:-3], "should end at byte"),
    "longer": (GOOD + b"\x00", r"its map ends at byte \d+ of \d+"),
    "huge shape": (
        damaged(b"\x92\x02\x03", b"\x92\x02\x7f"), r"float32 \(2, 127\), 1016 bytes, but has 24"
    ),
    "no such dtype": (damaged(b"\xa7float32", b"\xa7object_"), "has the dtype object_"),
    "another extension": (damaged(b"\x01\x93\x92", b"\x02\x93\x92"), "is not an array"),
    "a length beyond the end": (
        GOOD[: GOOD.index(b"\xc7")] + b"\xc9\xff\xff\xff\xff\x01\x93", "should end at byte 42949"
    ),
    "a number for an array": (b"\x81\xa1a\x05", "a is not an array"),
    "a list": (b"\x81\xa1a\x91\x05", "a is not an array"),
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
    "terminal commands": (b"\x81\xa5\x1b[31m\x05", r"\\x1b\[31m is not an array"),
    "nothing": (b"\x81\xa1a\x80", "holds no tensors"),
    "a chunk missing": (
        cut(b"\xa6chunks\x83", b"\xa6chunks\x82")[: -len(CHUNK) - 2],
        r"a/kernel is \(2, 3\), 6 numbers of one dtype, but its chunks have 4 of float32",
    ),
    "a chunk left out": (cut(b"\xa11\xc7", b"\xa12\xc7"), "chunks of a/kernel lacks number 1: 2"),
    "no chunks": (
        cut(b"\xa6chunks\x83", b"\xa6chunks\x80")[: -3 * (len(CHUNK) + 2)], "have 0 of no dtype"
    ),
    "a shape that lies": (cut(b"\xa11\x03", b"\xa11\x7f"), r"\(2, 127\), 254 numbers"),
    "an axis left out": (cut(b"\xa11\x03", b"\xa12\x03"), "shape of a/kernel lacks number 1: 2"),
    "a shape of a million axes": (
        cut(b"\xa5shape\x82", b"\xa5shape\xdf\0\x10\0\0"), "shape of a/kernel lacks number 2: chunks"
    ),
    "nine axes": (
        cut(b"\x82\xa10\2", b"\x89" + b"".join(b"\xa1%d\1" % n for n in range(8)) + b"\xa18\6")
        .replace(b"\xa11\3", b"", 1),
        "a/kernel has 9 axes",
    ),
    "a huge shape": (
        cut(b"\xa11\x03", b"\xa11\xcf" + b"\xff" * 8), "but its chunks have 6 of float32"
    ),
    "a chunk of another dtype": (
        cut(b"\xa7float32", b"\xa7float16"), r"float16 \(2,\), 4 bytes, but has 8"
    ),
    "chunks of two dtypes": (
        cut(b"\xa10\xc7\x15\1\x93\x91\2\xa7float32", b"\xa10\xc7\x13\1\x93\x91\2\xa5int32"),
        "its chunks have 6 of float32, int32",
    ),
    "a chunk with two axes": (
        cut(b"\xc7\x15\1\x93\x91\2", b"\xc7\x16\1\x93\x92\1\2"),
        "chunks that are not rows of numbers",
    ),
    "not in chunks": (cut(b"__\xc3", b"__\xc2"), "a/kernel has no shape and chunks"),
    "chunks and no shape": (cut(b"\xa5shape", b"\xa5sharp"), "has sharp where its shape should be"),
    "one more entry": (cut(b"\x83\xb9__", b"\x84\xb9__"), "a/kernel has no shape and chunks"),
    "chunks without a name": (CUT[CUT.index(b"\x83\xb9") :], r"__msgpack_chunked_array__ is not an array"),
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


@settings(deadline=None)
@given(data=st.sampled_from([GOOD, CUT]), place=st.integers(0), byte=st.integers(0, 255))
def test_no_changed_byte_does_more_than_be_refused(
    data: bytes, place: int, byte: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path, place = tmp_path_factory.getbasetemp() / "changed.msgpack", place % len(data)
    path.write_bytes(data[:place] + bytes([byte]) + data[place + 1 :])
    with contextlib.suppress(UserError):
        for tensor in checkpoints.read(path).tensors.values():
            tensor.read()
