"""A hostile archive is recognised by its table of contents; nothing is inflated for it."""

import os
import pickle
import zipfile

import pytest

from convert.files import untrusted
from jaxgpt.errors import UserError

PICKLE = pickle.dumps({}, 2)


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


@pytest.mark.parametrize(("name", "attributes"), [("w/data/0", 0x10), ("w/data/0/", 0)])
def test_a_folder_with_bytes_is_refused(tmp_path, name, attributes):
    """torch would leave in its tensor whatever the memory held."""
    entry = zipfile.ZipInfo(name)
    entry.external_attr = attributes
    for content in (b"", b"x"):
        path = archive(tmp_path / "w.pt", "w/data.pkl")
        with zipfile.ZipFile(path, "a") as file:
            file.writestr(entry, content)
        if content:
            refused(path, f"its entry {name} has bytes, but is marked as a folder")
        else:
            untrusted.Archive(path, "w.pt")


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
