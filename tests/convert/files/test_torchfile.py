"""Damaged, hostile or merely odd torch files: each is refused with a reason, and no code in them runs."""

import argparse
import os
import pickle
import re
import struct
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.files import checkpoints, saving, torch_tensors
from jaxgpt.errors import UserError
from tests.helpers import PROGRAMS

torch = pytest.importorskip("torch")

WEIGHTS = {"a.w": torch.arange(12.0).reshape(3, 4), "b.w": torch.arange(40.0).to(torch.bfloat16)}


class Command:
    """Runs a shell command when it is unpickled by a reader that obeys."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class Whole(torch.nn.Linear):
    pass


def rezip(source, target, edit=lambda name, content: content, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for entry in old.infolist():
            content = edit(entry.filename.split("/", 1)[1], old.read(entry))
            if content is not None:
                new.writestr(entry.filename, content)
    return target


def refused(path, *says):
    with pytest.raises(UserError) as caught:
        checkpoints.read(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert text.isprintable()
    assert "weights_only" not in text
    for words in says:
        assert re.search(words, text), text
    return text


@pytest.fixture
def good(tmp_path):
    torch.save(WEIGHTS, tmp_path / "good.pt")
    return tmp_path / "good.pt"


@pytest.fixture
def bad(tmp_path):
    return tmp_path / "bad.pt"


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_no_pickle_is_obeyed(bad, tmp_path, kind, protocol):
    root = {"a.w": torch.ones(2), "evil": Command(tmp_path / "obeyed")}
    if kind == "pickle":
        bad.write_bytes(pickle.dumps(root["evil"], protocol))
    else:
        torch.save(
            root, bad, _use_new_zipfile_serialization=kind == "zip", pickle_protocol=protocol
        )
    refused(bad, r"posix\.system", r"torch\.save\(model\.state_dict\(\)")
    assert not (tmp_path / "obeyed").exists()
    with bad.open("rb") as file:  # the same bytes do harm to whoever obeys: the test can fail
        if kind == "pickle":
            pickle.load(file)
            assert (tmp_path / "obeyed").exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("root", "name"),
    [
        ({"model": WEIGHTS, "args": argparse.Namespace(lr=1)}, r"argparse\.Namespace"),
        ({"model": WEIGHTS, "loss": np.float64(1)}, r"numpy"),
        (Whole(2, 3), r"test_torchfile\.Whole"),
    ],
)
def test_foreign_objects_are_named(bad, root, name, legacy):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(root, bad, _use_new_zipfile_serialization=not legacy)
    refused(
        bad,
        rf"\(\d+ bytes\) holds more than tensors: it names .*{name}",
        "settings as plain numbers",
    )


def test_plain_pickles_are_named_and_not_opened(bad):
    bad.write_bytes(pickle.dumps({"w": np.ones(3)}))
    refused(bad, r"plain pickle.*numpy\.", "numpy.ndarray")


def test_a_new_pickle_protocol_is_explained(bad):
    torch.save(WEIGHTS, bad, pickle_protocol=4)
    refused(bad, "protocol 4.*only protocol 2.*without pickle_protocol")


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_is_found_or_harmless(small, place, flip):
    content = bytearray(small.read_bytes())
    content[place % len(content)] ^= flip
    damaged = small.with_name("damaged.pt")
    damaged.write_bytes(content)
    try:
        read = checkpoints.read(damaged)
    except UserError as error:
        assert str(error).isprintable()  # noqa: PT017
        return
    values = {name: tensor.read().tobytes() for name, tensor in read.tensors.items()}
    assert values == {
        name: torch_tensors.to_array(tensor).tobytes() for name, tensor in WEIGHTS.items()
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "small.pt"
    torch.save(WEIGHTS, path)
    return path


@pytest.mark.parametrize("legacy", [False, True])
@settings(deadline=None, max_examples=150)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_pickle_altered_with_care_is_refused_or_read(small, legacy, place, flip):
    """As a forger would: the checksum fits. Then any value may change, but nothing may crash."""

    def alter(name, content):
        altered = bytearray(content)
        altered[place % len(altered)] ^= flip
        return bytes(altered) if name == "data.pkl" else content

    forged = small.with_name("forged.pt")
    if legacy:
        torch.save(WEIGHTS, forged, _use_new_zipfile_serialization=False)
        forged.write_bytes(alter("data.pkl", forged.read_bytes()))
    else:
        rezip(small, forged, alter)
    try:
        for tensor in checkpoints.read(forged).tensors.values():
            assert tensor.read().shape == tensor.shape
    except UserError as error:
        assert str(error).isprintable()  # noqa: PT017


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_cut_anywhere_is_refused(bad, legacy):
    torch.save(WEIGHTS, bad, _use_new_zipfile_serialization=not legacy)
    content = bad.read_bytes()
    for length in range(1, len(content), 7):
        bad.write_bytes(content[:length])
        refused(bad, rf"\({length} bytes\)")


def test_a_cut_archive_says_truncated(bad, good):
    bad.write_bytes(good.read_bytes()[:-100])
    refused(bad, "truncated or damaged.*download it again")


def test_a_flipped_bit_names_its_entry(bad, good):
    content = good.read_bytes()
    place = content.index(struct.pack("<4f", 0, 1, 2, 3))
    bad.write_bytes(content[:place] + b"\x01" + content[place + 1 :])
    refused(bad, r"entry good/data/0 does not match its checksum")


@pytest.mark.parametrize(
    "name", ["__builtin__\nbytearray", "torch\nFloatTensor", "torch.cuda\nHalfTensor"]
)
def test_memory_that_a_file_asks_for_but_does_not_fill_is_refused(bad, good, name):
    """torch 2.13 obeys this one: 200 bytes become as many gigabytes as they say."""
    asks = (
        b"\x80\x02}X\x03\x00\x00\x00a.wc"
        + name.encode()
        + b"\nJ"
        + struct.pack("<i", 1000)
        + b"\x85Rs."
    )
    rezip(good, bad, lambda entry, content: asks if entry == "data.pkl" else content)
    refused(bad, f"it names {name}.".replace("\n", "."))


def declare(count):
    """data.pkl with another number of elements for the first storage and its tensor."""
    number = b"J" + struct.pack("<i", count)

    def edit(name, content):
        if name == "data.pkl":
            content = content.replace(b"K\x0ct", number + b"t", 1).replace(
                b"K\x03K\x04\x86", number + b"\x85", 1
            )
            content = content.replace(b"K\x04K\x01\x86", b"K\x01\x85", 1)
        return content

    return edit


@pytest.mark.parametrize("count", [20, 2**31 - 1])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_storage_that_claims_its_neighbours_is_refused(bad, good, count, compression):
    rezip(good, bad, declare(count), compression)
    refused(bad, f"its storage 0 is declared with {4 * count} bytes, but the entry for it has 48")


def test_the_edit_above_is_what_makes_it_hostile(bad, good):
    rezip(good, bad, declare(12))
    assert checkpoints.read(bad).tensors["a.w"].shape == (12,)


def test_a_missing_storage_is_refused(bad, good):
    rezip(good, bad, lambda name, content: None if name == "data/1" else content)
    refused(bad, "its storage 1 is declared with 80 bytes, but there is no entry for it")


def test_a_legacy_file_that_claims_more_than_it_has_is_refused(bad):
    torch.save(WEIGHTS, bad, _use_new_zipfile_serialization=False)
    bad.write_bytes(
        bad.read_bytes().replace(b"K\x0cNt", b"J" + struct.pack("<i", 2**30) + b"Nt", 1)
    )
    refused(bad, rf"declared with {4 * 2**30 + 80} bytes, more than the file has")


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_without_bytes_are_refused(bad, legacy):
    torch.save(
        {"a.w": torch.ones(1).expand(1000, 1000)}, bad, _use_new_zipfile_serialization=not legacy
    )
    refused(
        bad,
        r"a\.w claims 1000000 elements, which are 4000000 bytes, but only 4 are stored",
        r"\.clone\(\)",
    )
    torch.save({"model": {"a": torch.ones(2)}, "ema": [torch.ones(1).expand(9)]}, bad)
    refused(bad, r"ema\.0 claims 9 elements, which are 36 bytes, but only 4 are")


def test_views_that_add_up_to_more_than_the_file_are_refused(bad):
    base = torch.ones(500_000)
    torch.save({f"w.{i}": base[i:] for i in range(40)}, bad)
    refused(
        bad, r"its tensors overlap: together they claim 79996880 bytes, but only 20\d{5} are stored"
    )


def test_tied_tensors_and_views_are_welcome(good):
    wte = torch.rand(300, 20)
    torch.save({"wte.w": wte, "head.w": wte, "back.w": wte.T, "part.w": wte[:, 3]}, good)
    read = checkpoints.read(good)
    assert (read.tensors["back.w"].read() == wte.numpy().T).all()
    assert (read.tensors["part.w"].read() == wte.numpy()[:, 3]).all()
    assert all(tensor.read().flags.c_contiguous for tensor in read.tensors.values())


def odd_tensors():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces each of these as unfinished or outgoing
        yield "sparse", torch.eye(3).to_sparse()
        yield "sparse", torch.eye(3).to_sparse_csr()
        yield "meta", torch.empty(3, device="meta")
        yield "quantised", torch.quantize_per_tensor(torch.rand(3), 0.1, 0, torch.qint8)
        yield "nested", torch.nested.nested_tensor([torch.rand(2), torch.rand(3)])


@pytest.mark.parametrize(("kind", "tensor"), list(odd_tensors()))
def test_tensors_that_are_no_arrays_are_refused_by_name(bad, kind, tensor):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"model": {"a.w": torch.ones(2), "b.w": tensor}}, bad)
    refused(bad, rf"model\.b\.w is a {kind} tensor")


def test_numbers_that_numpy_has_not_are_refused_by_name(bad):
    torch.save({"a.w": torch.ones(2), "b.w": torch.ones(2).to(torch.float8_e4m3fn)}, bad)
    refused(bad, r"b\.w is float8_e4m3fn; supported dtypes are bfloat16, .*tensor\.float\(\)")


@pytest.mark.parametrize(
    "form", ["stored", "restored", "deflated", "legacy", "safetensors by name"]
)
def test_every_layout_gives_the_same_weights(tmp_path, good, form):
    path = tmp_path / ("w.safetensors" if form == "safetensors by name" else "w.pt")
    if form == "legacy":
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)
    elif form in ("deflated", "restored"):
        rezip(
            good,
            path,
            compression=zipfile.ZIP_DEFLATED if form == "deflated" else zipfile.ZIP_STORED,
        )
    else:
        torch.save(WEIGHTS, path)
    read = checkpoints.read(path)
    assert read.container == ("torch legacy" if form == "legacy" else "torch zip")
    assert list(read.tensors) == list(WEIGHTS)
    for name, tensor in WEIGHTS.items():
        array = read.tensors[name].read()
        assert (array.shape, str(array.dtype)) == (
            tuple(tensor.shape),
            str(tensor.dtype).removeprefix("torch."),
        )
        assert array.astype("float32").tolist() == tensor.float().tolist()


def test_buffers_parameters_and_conjugates_are_plain_arrays(good):
    values = OrderedDict(
        mask=torch.ones(2, 2).tril().bool(),
        position=torch.arange(3),
        weight=torch.nn.Parameter(torch.ones(2)),
        conjugate=torch.tensor([1 + 2j]).conj(),
        scalar=torch.tensor(3.5, dtype=torch.bfloat16),
        empty=torch.zeros(0, 4),
    )
    torch.save(values, good)
    tensors = checkpoints.read(good).tensors
    assert {name: str(tensor.dtype) for name, tensor in tensors.items()} == {
        "mask": "bool",
        "position": "int64",
        "weight": "float32",
        "conjugate": "complex64",
        "scalar": "bfloat16",
        "empty": "float32",
    }
    assert tensors["conjugate"].read()[0] == 1 - 2j
    assert tensors["scalar"].read() == 3.5
    assert tensors["empty"].read().shape == (0, 4)


def test_a_root_that_holds_itself_is_read(good):
    knot = {"model": {"a": torch.ones(2)}}
    knot["self"] = knot
    torch.save(knot, good)
    assert list(checkpoints.read(good).tensors) == ["a"]


def test_without_torch_the_way_out_is_said(good, bad, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(good, "install a CPU build .* --torch-backend cpu --upgrade torch")
    with pytest.raises(UserError, match=r"new\.pt needs torch"):
        saving.save(good.with_name("new.pt"), {"w": np.ones(2)})


def test_an_old_torch_is_refused(good, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    refused(good, r"torch 2\.10 or later.*2\.9\.1\+cpu")
    monkeypatch.setattr(torch, "__version__", "3.0.0a0+git1234")
    assert checkpoints.read(good).tensors


@pytest.mark.parametrize(
    "name", ["two words", "new\nline", "u\x85next", "line\u2028end", "a (deleted)", " first"]
)
def test_large_tensors_are_read_wherever_they_lie(name, tmp_path):
    """Linux lists what is mapped line by line, with names as they are."""
    large = torch.arange(2**19, dtype=torch.float32).reshape(2**9, 2**10)
    held = {"plain": large, "turned": large.T, "half": large.to(torch.bfloat16)}
    torch.save(held, tmp_path / name)
    found = checkpoints.read(tmp_path / name).tensors
    for key, value in held.items():
        assert np.array_equal(found[key].read().astype(np.float32), value.float().numpy()), key


def test_a_mapped_file_that_was_replaced_is_still_the_one_that_was_opened(tmp_path):
    path, large = tmp_path / "weights.pt", torch.ones(2**19)
    torch.save({"a": large}, path)
    found = checkpoints.read(path).tensors
    torch.save({"a": 0 * large}, tmp_path / "weights.pt (deleted)")
    path.unlink()
    assert found["a"].read().all()


@pytest.mark.parametrize(
    "words", [["to-torch", "model", "a.pt"], ["verify", "a.safetensors", "model"]]
)
def test_commands_without_torch_say_what_to_install(words):
    command = [sys.executable, PROGRAMS / "convert_without_torch.py", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "install a CPU build" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
