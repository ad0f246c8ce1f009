"""New files and folders on unusual disks, under unusual names, and next to other programs."""

import contextlib
import errno
import itertools
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxgpt.errors import UserError
from jaxgpt.system import atomic_files, directories, locks
from tests.torture.calls import WRITE, Count, watched

LONGEST = "é" * 127 + "a"  # 255 bytes, as many as a name may have


def make_file(path: Path) -> None:
    with atomic_files.new_file(path) as partial:
        partial.write_text("whole")


def make_folder(path: Path) -> None:
    with directories.new_directory(path) as partial:
        (partial / "it").write_text("whole")


MAKERS = [make_file, make_folder]


def failing(number: int, only: Callable[[str], bool] = lambda name: True) -> Callable[..., None]:
    """A call of the system that fails with the error `number` on paths that `only` picks."""

    def call(path: object, *rest: object) -> None:
        name = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else str(path)
        if only(name):
            raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", [LONGEST, "new\nline", "-x", " ", "\udcff"])
def test_any_name_that_the_file_system_accepts_can_be_written(
    make: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    make(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("make", MAKERS)
def test_parent_folders_are_made_and_removed_if_nothing_is_written(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "a" / "b" / "c")
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space") as caught:
        make(tmp_path / "a" / "d" / "e" / "f")
    assert caught.value.filename == str(tmp_path / "a" / "d" / "e" / "f")
    assert os.listdir(tmp_path / "a") == ["b"]


@pytest.mark.parametrize("make", MAKERS)
def test_the_content_is_on_the_disk_before_it_gets_its_name(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power failure there is all of it, or nothing under that name."""
    path, fsync = tmp_path / "new", os.fsync
    before, after = set[int](), set[int]()

    def note(handle: int) -> None:
        fsync(handle)
        (after if path.exists() else before).add(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", note)
    make(path)
    assert {each.stat().st_ino for each in (path, *path.rglob("*"))} <= before
    assert after == {tmp_path.stat().st_ino}


@pytest.mark.parametrize("make", MAKERS)
def test_a_second_writer_overwrites_nothing(make: Callable[[Path], None], tmp_path: Path) -> None:
    maker = atomic_files.new_file if make is make_file else directories.new_directory
    with pytest.raises(UserError, match="exists"), maker(tmp_path / "it") as partial:
        if make is make_file:
            partial.write_text("second")
        make(tmp_path / "it")
    first = tmp_path / "it" if make is make_file else tmp_path / "it" / "it"
    assert first.read_text() == "whole"
    assert os.listdir(tmp_path) == ["it"]


def test_another_program_that_takes_the_name_meanwhile_keeps_it(tmp_path: Path) -> None:
    """At each change of a file, another program tries to write a file of the same name."""
    for at in itertools.count(1):
        path, taken = tmp_path / str(at), list[str]()

        def take(kind: str, name: str, path: Path = path, taken: list[str] = taken) -> None:
            with contextlib.suppress(FileExistsError), path.open("x") as file:
                taken.append(name)
                file.write("theirs")

        with watched(tmp_path, count := Count(WRITE, at, take)), contextlib.suppress(UserError):
            make_file(path)
        assert path.read_text() == ("theirs" if taken else "whole")
        if count.calls < at:
            break
    assert at > 3


def test_a_file_system_without_hard_links_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    make_file(tmp_path / "it")
    with pytest.raises(UserError, match="exists"):
        make_file(tmp_path / "it")
    assert os.listdir(tmp_path) == ["it"]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(("number", "fails"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_folder_is_synchronised_if_the_file_system_can_do_so(
    make: Callable[[Path], None],
    number: int,
    fails: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some file systems cannot do so; if it fails on others, the new name is removed again."""
    monkeypatch.setattr(os, "fsync", failing(number, lambda name: name == str(tmp_path)))
    if fails:
        with pytest.raises(OSError, match="Input/output"):
            make(tmp_path / "it")
    else:
        make(tmp_path / "it")
    assert os.listdir(tmp_path) == ([] if fails else ["it"])


def test_a_folder_is_written_where_a_link_points(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "not there"):
        (tmp_path / f"link to {name}").symlink_to(tmp_path / name)
        make_folder(tmp_path / f"link to {name}")
        directories.check_manifest(tmp_path / name)
    assert len(os.listdir(tmp_path)) == 4
    with pytest.raises(UserError, match="exists"):
        make_file(tmp_path / "link to empty")


def test_a_file_does_not_replace_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "not there")
    with pytest.raises(UserError, match="exists"):
        make_file(tmp_path / "link")


def test_a_mount_point_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path)
    with pytest.raises(UserError, match="name a new folder in it"):
        make_folder(tmp_path)
    make_folder(tmp_path / "new")


def test_a_folder_replaces_an_empty_one_even_if_renaming_to_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def to_nothing(path: Path, target: Path) -> Path:
        if target.exists():
            raise OSError(errno.EEXIST, "File exists", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", to_nothing)
    (tmp_path / "it").mkdir()
    make_folder(tmp_path / "it")
    directories.check_manifest(tmp_path / "it")


def test_a_lock_that_cannot_be_marked_is_removed(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with (
            pytest.raises(OSError, match="too large") as caught,
            locks.locked(tmp_path / "lock", "mark", "taken"),
        ):
            pytest.fail("there is no room for the mark")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(tmp_path / "lock")
    assert os.listdir(tmp_path) == []
