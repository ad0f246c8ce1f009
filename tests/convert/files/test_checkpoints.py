"""Checkpoint files as users meet them: what is written is read again, and what is odd is refused in words."""

import json
import os
import re
import resource
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from convert.files import checkpoints, safefile, saving, torch_writer
from jaxgpt.errors import Failure, UserError

FLOATS = ["float16", "bfloat16", "float32", "float64"]


@pytest.fixture(params=[".pt", ".pth", ".safetensors"])
def suffix(request):
    if request.param != ".safetensors":
        pytest.importorskip("torch")
    return request.param


def random_bits(shape, dtype):
    """Every pattern a file can hold, NaN payloads and infinities too."""
    dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    patterns = 2 if dtype.kind == "b" else 256
    raw = np.random.default_rng(0).integers(0, patterns, (*shape, dtype.itemsize), dtype=np.uint8)
    return raw.view(dtype).reshape(shape)


def assert_same(checkpoint, arrays):
    assert list(checkpoint.tensors) == list(arrays)
    for name, array in arrays.items():
        tensor = checkpoint.tensors[name]
        value = tensor.read()
        assert (
            (tensor.shape, tensor.dtype) == (value.shape, value.dtype) == (array.shape, array.dtype)
        ), name
        assert value.tobytes() == array.tobytes(), name
        assert value.flags.c_contiguous, name
        assert not value.flags.writeable, name


@pytest.mark.parametrize("dtype", [*FLOATS, "int64", "uint8", "bool", "complex64"])
def test_what_is_written_is_read_again(tmp_path, suffix, dtype):
    shapes = {"z": (5, 3), "a.b": (2, 3, 4), "scalar": (), "none": (0, 4), "m": (7,)}
    arrays = {name: random_bits(shape, dtype) for name, shape in shapes.items()}
    saving.save(tmp_path / f"w{suffix}", arrays)
    assert_same(checkpoints.read(tmp_path / f"w{suffix}"), arrays)


@pytest.mark.parametrize("dtype", FLOATS)
def test_arrays_in_any_order_of_memory_keep_their_values(tmp_path, suffix, dtype):
    base = random_bits((6, 8), dtype)
    frozen = random_bits((3, 5), dtype)
    frozen.flags.writeable = False
    arrays = {
        "transposed": base.T,
        "slice": base[:, 2:5],
        "strided": base[::2, ::3],
        "backwards": base[::-1, ::-1],
        "repeated": np.broadcast_to(base[0], (4, 8)),
        "permuted": random_bits((2, 3, 4), dtype).transpose(2, 0, 1),
        "frozen": frozen,
        "frozen transposed": frozen.T,
    }
    saving.save(tmp_path / f"w{suffix}", arrays)
    assert_same(checkpoints.read(tmp_path / f"w{suffix}"), arrays)


def test_dtypes_mixed(tmp_path, suffix):
    arrays = {name: random_bits((3,), name) for name in ["uint8", *FLOATS]}
    saving.save(tmp_path / f"w{suffix}", arrays)
    read = checkpoints.read(tmp_path / f"w{suffix}")
    assert_same(read, {name: arrays[name] for name in read.tensors})
    assert read.tensors.keys() == arrays.keys()


def test_torch_reads_what_is_written(tmp_path, suffix):
    torch = pytest.importorskip("torch")
    arrays = {
        "odd": random_bits((3,), "uint8"),
        "w": np.arange(12, dtype="float32").reshape(3, 4).T,
    }
    saving.save(tmp_path / f"w{suffix}", arrays)
    if suffix == ".safetensors":
        from safetensors.torch import load_file as load
    else:
        load = torch.load
    state = load(tmp_path / f"w{suffix}")
    assert state["w"].equal(torch.arange(12.0).reshape(3, 4).T)


def test_weights_stay_in_the_file_until_asked_for_and_leave_no_pages_behind(tmp_path, suffix):
    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        pytest.skip("only Linux lists its mappings")

    def resident() -> int:
        """Kilobytes of the file that are in this process's memory."""
        parts = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", smaps.read_text())
        return sum(int(re.search(r"Rss:\s+(\d+)", part)[1]) for part in parts if str(path) in part)

    path, array = tmp_path / f"w{suffix}", np.random.default_rng(0).random((1024, 1024))
    saving.save(path, {"w": array})
    checkpoint = checkpoints.read(path)
    assert checkpoint.container == ("safetensors" if suffix == ".safetensors" else "torch zip")
    before = resident()
    assert np.array_equal(checkpoint.tensors["w"].read(), array)
    assert before <= resident() < 1024


def test_a_name_that_is_no_text_will_do(tmp_path, suffix):
    path, array = tmp_path / f"\udcff{suffix}", np.arange(5.0)
    saving.save(path, {"w": array})
    assert np.array_equal(checkpoints.read(path).tensors["w"].read(), array)


def replace_file(path, other):
    other.replace(path)


def cut_file(path, other):
    os.truncate(path, path.stat().st_size // 3)


def overwrite_file(path, other):
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("change", [replace_file, cut_file, overwrite_file])
@pytest.mark.parametrize("size", [5, 2**20])
def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path, suffix, change, size):
    path, other = tmp_path / f"w{suffix}", tmp_path / f"other{suffix}"
    arrays = {name: np.full(size, number, "float32") for number, name in enumerate("ab")}
    saving.save(path, arrays)
    saving.save(other, {name: array + 1 for name, array in arrays.items()})
    checkpoint = checkpoints.read(path)
    first = checkpoint.tensors["a"].read()
    change(path, other)
    with pytest.raises(UserError, match=rf"w{suffix} was changed or replaced while it was read"):
        checkpoint.tensors["b"].read()
    assert np.array_equal(first, arrays["a"])


def test_a_shard_that_changes_between_two_readings_is_noticed(tmp_path):
    arrays = {name: np.full(5, number, "float32") for number, name in enumerate("ab")}
    for name, array in arrays.items():
        saving.save(tmp_path / f"{name}.safetensors", {name: array})
    index = {"weight_map": {name: f"{name}.safetensors" for name in arrays}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoint = checkpoints.read(tmp_path)
    checkpoint.tensors["b"].read()
    saving.save(tmp_path / "c.safetensors", {"x": arrays["b"]})
    (tmp_path / "c.safetensors").replace(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"a\.safetensors was changed or replaced"):
        checkpoint.tensors["a"].read()


def test_one_array_under_two_names_is_stored_once_as_tied(tmp_path):
    torch = pytest.importorskip("torch")
    wte = np.ones((100, 100), "float32")
    saving.save(
        tmp_path / "tied.pt",
        {"wte": wte, "head": wte, "slice": np.ones((100, 1000), "float32")[:, :1]},
    )
    state = torch.load(tmp_path / "tied.pt", weights_only=True)
    assert state["wte"].data_ptr() == state["head"].data_ptr()
    assert (tmp_path / "tied.pt").stat().st_size < 2 * wte.nbytes


def test_a_tensor_made_from_an_array_has_its_own_memory():
    torch = pytest.importorskip("torch")
    array = np.ones((2, 3), ml_dtypes.bfloat16).T
    tensor = checkpoints.to_tensor(array)
    assert tensor.dtype == torch.bfloat16
    assert tensor.is_contiguous()
    tensor.zero_()
    assert array.all()


def test_writing_makes_the_parent_and_overwrites_nothing(tmp_path, suffix):
    path = tmp_path / "new" / "deep" / f"w{suffix}"
    saving.save(path, {"w": np.zeros(3, "float32")})
    before = path.read_bytes()
    with pytest.raises(UserError, match="exists.*another name"):
        saving.save(path, {"w": np.ones(3, "float32")})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_full_disk_leaves_nothing(tmp_path, suffix):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(
            Failure, match=rf"w{suffix} could not be written.* larger than the system allows"
        ):
            saving.save(
                tmp_path / f"w{suffix}", {name: np.ones(10_000, "float32") for name in "ab"}
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_a_parent_that_is_a_file_is_said(tmp_path, suffix):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(UserError, match="could not be written"):
        saving.save(tmp_path / "taken" / f"w{suffix}", {"w": np.zeros(3, "float32")})


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_leaves_nothing(tmp_path, suffix, monkeypatch, error):
    def stop(descriptor):
        raise error

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(error):
        saving.save(tmp_path / f"w{suffix}", {"w": np.zeros(3, "float32")})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("suffix", "writer"), [(".safetensors", safefile.Writer), (".pt", torch_writer.Writer)]
)
def test_a_wrong_bit_written_is_noticed(tmp_path, monkeypatch, suffix, writer):
    if suffix == ".pt":
        pytest.importorskip("torch")
    put = writer.put

    def wrongly(self, names, array):
        put(self, names, np.nextafter(array, 9))
        return zlib.crc32(array.tobytes())

    monkeypatch.setattr(writer, "put", wrongly)
    with pytest.raises(RuntimeError, match="w was not read back"):
        saving.save(tmp_path / f"w{suffix}", {"w": np.zeros(3, "float32")})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [0, 1, 1000])
@pytest.mark.parametrize("large", [2**30, 100])  # bytes from which a record has sizes of 8 bytes
def test_tensors_of_a_torch_file_are_aligned_and_mapped(tmp_path, monkeypatch, size, large):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch_writer, "LARGE", large)
    arrays = {name: np.full(size, len(name), "float32") for name in ("a", "bbb", "cc" * 20)}
    saving.save(tmp_path / "w.pt", arrays)
    mapped = torch.load(tmp_path / "w.pt", mmap=True, weights_only=True)
    assert {name: tensor.tolist() for name, tensor in mapped.items()} == {
        name: array.tolist() for name, array in arrays.items()
    }
    assert all(tensor.data_ptr() % 64 == 0 for tensor in mapped.values() if size)


def test_a_torch_file_is_the_same_each_time(tmp_path):
    pytest.importorskip("torch")
    for name in ("a.pt", "b.pt"):
        saving.save(tmp_path / name, {"w": np.ones(3, "float32")}, "model", {"step": 3})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("w.bin", np.zeros(3), r"must end in \.pt or \.pth or \.safetensors"),
        ("w.safetensors", np.zeros(3, "complex128"), "w is complex128"),
        ("w.safetensors", np.zeros(3, ">f4"), "w is >f4"),
        ("w.safetensors", np.array([None]), "w is object"),
        ("w.safetensors", np.zeros(3, ml_dtypes.float8_e4m3fn), "w is float8_e4m3fn"),
    ],
)
def test_what_no_file_can_hold_is_not_written(tmp_path, name, array, says):
    with pytest.raises(UserError, match=says):
        saving.save(tmp_path / name, {"w": array})
    with pytest.raises(UserError, match="no tensors"):
        saving.save(tmp_path / "none.safetensors", {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", r"\(0 bytes\) is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 548118077\n",
            "548118077 bytes.*git lfs pull",
        ),
        (b"<!DOCTYPE html><html>", r"\(21 bytes\) is not a torch, safetensors.*DOCTYPE"),
        (b"hello", "not a torch, safetensors or Flax checkpoint"),
        (b"\x80", "not a torch, safetensors or Flax checkpoint"),
        (bytes(300), "not a torch, safetensors or Flax checkpoint"),
    ],
)
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_what_is_no_checkpoint_is_refused_whatever_its_name(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}.*{says}"):
        checkpoints.read(tmp_path / name)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"gone\.pt does not exist"):
        checkpoints.read(tmp_path / "gone.pt")
    (tmp_path / "config.json").touch()
    with pytest.raises(
        UserError, match=r"is a directory; in it should be one of model\.safe.*holds config\.json"
    ):
        checkpoints.read(tmp_path)
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(UserError, match=r"pipe\.pt is a device or a pipe"):
        checkpoints.read(tmp_path / "pipe.pt")


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["a.w", "b.w"], ""),
        (["_orig_mod.a", "_orig_mod.b"], "_orig_mod."),
        (["module._orig_mod.a", "module._orig_mod.b"], "module._orig_mod."),
        (["_orig_mod.module.module.a", "_orig_mod.module.b"], "_orig_mod.module."),
        (["module.a", "head"], ""),
        (["module.", "module.a"], ""),
        (["model.a", "model.b"], ""),
    ],
)
def test_wrappers_come_off_when_every_name_has_them(tmp_path, names, prefix):
    saving.save(tmp_path / "w.safetensors", {name: np.zeros(2, "float32") for name in names})
    read = checkpoints.read(tmp_path / "w.safetensors")
    assert read.prefix == prefix
    assert list(read.tensors) == [name.removeprefix(prefix) for name in names]


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_lightning_has_two_wrappers_more(tmp_path, key):
    torch = pytest.importorskip("torch")
    torch.save(
        {key: {"net.module.a": torch.ones(2), "net.module.b": torch.ones(2)}}, tmp_path / "w.ckpt"
    )
    assert checkpoints.read(tmp_path / "w.ckpt").prefix == (
        "net.module." if key == "state_dict" else ""
    )


ADAM = {"state": {0: {"step": "T", "exp_avg": "T"}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
CONTAINERS = [  # root with "T" for each tensor, key of the state dict, names in it, names beside it
    ({"b.w": "T", "a.w": "T"}, "", ["b.w", "a.w"], []),
    ({"weight": "T"}, "", ["weight"], []),
    (
        {"model": {"a": "T"}, "optimizer": ADAM, "loss": "T", "n": 3},
        "model",
        ["a"],
        ["optimizer", "loss", "n"],
    ),
    ({"optimizer": ADAM, "model_state": {"a": "T"}}, "model_state", ["a"], ["optimizer"]),
    ({"ema": {"a": "T"}, "model_state_dict": {"b": "T"}}, "model_state_dict", ["b"], ["ema"]),
    ({"model": {"n_layer": 2}, "state_dict": {"b": "T"}}, "state_dict", ["b"], ["model"]),
    ({"state_dict": {"a": "T"}, "model": {"b": "T"}}, "model", ["b"], ["state_dict"]),
    ({"weights": {"a": "T"}, "epoch": 3, 7: {"a": "T"}}, "weights", ["a"], ["epoch", 7]),
    (
        {"h.w": "T", "pos": "T", "h.b": "T", "epoch": 3, "c": {"d": 1}},
        "",
        ["h.w", "pos", "h.b"],
        ["epoch", "c"],
    ),
]


@pytest.mark.parametrize(("root", "nested", "names", "beside"), CONTAINERS)
def test_the_state_dict_is_found_among_its_siblings(tmp_path, root, nested, names, beside):
    torch = pytest.importorskip("torch")
    torch.save(filled(root, torch), tmp_path / "ckpt.pt")
    read = checkpoints.read(tmp_path / "ckpt.pt")
    assert (read.nested, list(read.tensors), list(read.extras)) == (nested, names, beside)
    assert (read.tensors[names[0]].read() == 1).all()
    if "optimizer" in beside:
        assert read.extras["optimizer"]["state"][0]["exp_avg"].equal(torch.ones(3))


def filled(value, torch):
    if isinstance(value, dict):
        return {key: filled(item, torch) for key, item in value.items()}
    return torch.nn.Parameter(torch.ones(3)) if value == "T" else value


@pytest.mark.parametrize(
    ("root", "says"),
    [
        ({"g": {"a": "T"}, "d": {"a": "T"}}, "2 state dicts, g, d, and none .* model"),
        ({"a": "T", "epoch": 3}, r"no tensors by name.*'a' \(Parameter\), 'epoch' \(int\)"),
        ({0: "T", 1: "T"}, "no tensors by name"),
        ({"model": {}}, r"no tensors by name.*'model' \(dict\).*state_dict\(\)"),
        ({}, "holds nothing"),
        ([1, 2], "its root is a list"),
        ("T", "its root is a Parameter"),
    ],
)
def test_a_root_without_a_state_dict_is_refused(tmp_path, root, says):
    torch = pytest.importorskip("torch")
    torch.save(filled(root, torch), tmp_path / "ckpt.pt")
    with pytest.raises(UserError, match=rf"ckpt\.pt.*{says}"):
        checkpoints.read(tmp_path / "ckpt.pt")


def test_content_decides_and_not_the_suffix(tmp_path):
    saving.save(tmp_path / "w.safetensors", {"a": np.ones(3, "float32")})
    (tmp_path / "w.safetensors").rename(tmp_path / "w.pt")
    assert checkpoints.read(tmp_path / "w.pt").container == "safetensors"
    pytest.importorskip("torch")
    saving.save(tmp_path / "other.pt", {"a": np.ones(3, "float32")})
    (tmp_path / "other.pt").rename(tmp_path / "other.safetensors")
    read = checkpoints.read(tmp_path / "other.safetensors")
    assert read.container == "torch zip"
    assert read.tensors["a"].read().tolist() == [1, 1, 1]
