"""A hostile archive or pickle is seen through by its own words; nothing is inflated, executed or allocated for it."""

import io
import os
import pickle
import tracemalloc
import zipfile

import pytest

from convert.files import untrusted
from jaxgpt.errors import UserError

PICKLE = pickle.dumps({}, 2)


class Command:
    """Runs a shell command when it is unpickled by a reader that obeys."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def archive(path, *names, content=b"x", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name in names:
            file.writestr(name, PICKLE if name.endswith("data.pkl") else content)
    return path


def refused(path, says):
    with pytest.raises(UserError, match=rf"^{path.name} .*{says}"):
        untrusted.Archive(path, f"{path.name} (7 bytes)")


def test_an_ordinary_archive_is_let_through(tmp_path):
    found = untrusted.Archive(
        archive(tmp_path / "w.pt", "w/data.pkl", "w/data/0", "w/version"), "w.pt"
    )
    assert (found.top, found.stored, found.inflated_bytes) == ("w", True, len(PICKLE) + 2)
    assert found.overdrawn() == []
    deflated = archive(tmp_path / "w.pt", "w/data.pkl", compression=zipfile.ZIP_DEFLATED)
    assert not untrusted.Archive(deflated, "w.pt").stored


def test_a_zip_bomb_is_refused_before_a_byte_is_inflated(tmp_path, monkeypatch):
    zeros = bytes(80 * 2**20)
    path = archive(
        tmp_path / "w.pt", "w/data.pkl", "w/data/0", content=zeros, compression=zipfile.ZIP_DEFLATED
    )
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("inflated"))
    refused(
        path,
        rf"would inflate to {len(zeros) + len(PICKLE)} bytes, \d+ times its size \(a zip bomb\)",
    )


@pytest.mark.parametrize("content", [bytes(60 * 2**20), os.urandom(2**20) + bytes(70 * 2**20)])
def test_what_is_small_or_shrinks_like_a_model_is_no_bomb(tmp_path, content):
    path = archive(
        tmp_path / "w.pt",
        "w/data.pkl",
        "w/data/0",
        content=content,
        compression=zipfile.ZIP_DEFLATED,
    )
    assert untrusted.Archive(path, "w.pt").inflated_bytes > len(content)


@pytest.mark.parametrize(
    "name", ["w/../../evil", "../evil", "/etc/evil", "C:/evil", "w\\..\\..\\evil"]
)
def test_entries_that_point_outside_are_refused(tmp_path, name):
    path = archive(tmp_path / "w.pt", "w/data.pkl", name)
    with pytest.raises(UserError, match="points outside") as caught:
        untrusted.Archive(path, "w.pt")
    assert f"its entry {name} " in str(caught.value)


def test_all_objections_come_at_once(tmp_path):
    path = archive(
        tmp_path / "w.pt", "w/data.pkl", "w/a", "W/A", "../b", compression=zipfile.ZIP_LZMA
    )
    refused(path, r"data\.pkl is encrypted, or compressed.*b points outside.*same name")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            ["w/data.pkl", "w/constants.pkl", "w/code/m.py"],
            r"is a TorchScript archive.*state_dict\(\)",
        ),
        (["w/archive_format", "w/models/model.json"], r"is an exported program \(\.pt2\)"),
        (
            ["layer.npy", "b/data.pkl"],
            r"not a torch checkpoint.*data\.pkl; this one holds layer\.npy, b/data\.pkl",
        ),
        ([], "holds nothing"),
    ],
)
def test_other_archives_are_named(tmp_path, names, says):
    refused(archive(tmp_path / "w.pt", *names), says)


def test_a_flipped_bit_and_a_cut_are_found(tmp_path):
    path = archive(tmp_path / "w.pt", "w/data.pkl", "w/data/0", content=b"weights")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"weights", b"weighty", 1))
    refused(path, "is damaged: its entry w/data/0 does not match its checksum")
    path.write_bytes(content[:-30])
    refused(path, "truncated or damaged")


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_is_followed_and_not_obeyed(tmp_path, protocol):
    content = pickle.dumps({"first": Command(tmp_path / "obeyed"), "then": io.StringIO}, protocol)
    ledger = untrusted.Ledger(io.BytesIO(content)).follow(1)
    assert (ledger.broken, ledger.foreign) == (
        "",
        ["_io.StringIO", f"{os.system.__module__}.system"],
    )
    assert not (tmp_path / "obeyed").exists()
    pickle.loads(content)  # so it does harm to whoever obeys, and the line above could fail
    assert (tmp_path / "obeyed").exists()


class Storing(pickle.Pickler):
    def persistent_id(self, item):
        return item if isinstance(item, tuple) and item[0] == "storage" else None


def test_claims_are_the_sizes_of_storages():
    stream = io.BytesIO()
    # As torch writes them: kind, class, key, device, number of elements. A pickled name stands in for a torch class.
    Storing(stream, 2).dump(
        [("storage", io.StringIO, "0", "cpu", 10), ("storage", io.BytesIO, "1", "cpu", 3)]
    )
    content = (
        stream.getvalue()
        .replace(b"_io\nStringIO\n", b"torch\nHalfStorage\n")
        .replace(b"_io\nBytesIO\n", b"torch\nDoubleStorage\n")
    )
    ledger = untrusted.Ledger(io.BytesIO(content)).follow(1)
    assert (ledger.broken, ledger.claims, ledger.foreign) == ("", {"0": 20, "1": 24}, [])


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # a memo index for which the unpickler in C would allocate 32 GB
        b"\x80\x05\x96"
        + (2**34).to_bytes(8, "little")
        + b".",  # 16 GB of zeros, to be overwritten by what follows
        b"\x80\x02\x8a\x04",
        b"\x80\x02cos\nsystem\n",
        b"\x80\x02\x82\x01.",  # an extension code, to be looked up in the running process
        b"",
    ],
)
def test_a_malformed_pickle_costs_nothing(content):
    tracemalloc.start()
    ledger = untrusted.Ledger(io.BytesIO(content)).follow(1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
    assert ledger.broken or content.startswith(b"\x80\x02N")


def test_tuples_that_contain_each_other_are_not_hashed():
    """Forty pairs of the pair before: as a key, the last would be a million millions of elements."""
    pairs = b")" + 40 * (pickle.DUP + pickle.TUPLE2)
    ledger = untrusted.Ledger(io.BytesIO(b"\x80\x02}" + pairs + b"K\x01s.")).follow(1)
    assert "tuples within tuples" in ledger.broken


def test_large_tuples_of_plain_values_are_followed():
    content = pickle.dumps({(i, str(i)): (tuple(range(i)), (i,) * 3) for i in range(300)}, 2)
    assert untrusted.Ledger(io.BytesIO(content)).follow(1).broken == ""
