"""Names that shells, terminals and file systems may not handle, and links."""

import json
import os
import shutil
from pathlib import Path
from random import Random

from tests.torture.situations import refusal_of, require
from tests.torture.tasks import (
    GOES_ON,
    TASKS,
    Task,
    expected_of,
    given_in,
    meaning_of,
    require_right,
    snapshot,
)

LONGEST = 255  # bytes
NAMES = (
    "two words", "new\nline", "Übergrößen Ω 漢字 🙂", "-dash", "--help", "a" * LONGEST, "é" * (LONGEST // 2),
    "tab\there", "#?%20&;$(x)`x`'\"", "[a-z]*", "~", "a.b.c", ".hidden", "ends ", " begins", "\x1b[31mred",
    "no text \udcff\udc80", "{0} %s", "name=value,x:y", "right\u202eleft", "\\", "*", "$HOME", "file:", "null",
)  # fmt: skip


def odd_names(random: Random, path: Path) -> str:
    """The input is in a folder of an odd name, and the output has one."""
    original = given_in(path.parent)
    task = random.choice([task for task in TASKS if task.name != GOES_ON])
    expected = expected_of(task, original)
    given = path / random.choice(NAMES)
    shutil.copytree(original, given, symlinks=True)
    out = path / "out"
    out.mkdir()
    suffix = os.path.splitext(task.writes)[1]
    cut = os.fsencode(random.choice(NAMES))[: LONGEST - len(suffix)]
    name = os.fsdecode(cut) + suffix if task.writes else ""
    named = Task(task.name, task.words, task.reads, name)
    ended = named(given, out)
    if refusal := refusal_of(ended, (2,)):
        require(not snapshot(out), f"{sorted(snapshot(out))} is left of {task.name}")
        return refusal
    if task.writes:
        require_right(named, ended, out, expected)
    return ""


def links(random: Random, path: Path) -> str:
    """A link in place of a file or folder that is read or written."""
    return random.choice((_out_is_a_link, _inside_leads_out, _whole_is_a_link, _index_leads_out))(
        random, path
    )


def _out_is_a_link(random: Random, path: Path) -> str:
    """The output is a link: to a folder, to nothing, to itself, or to a file."""
    given = given_in(path.parent)
    task = random.choice([task for task in TASKS if task.writes and task.name != GOES_ON])
    expected = expected_of(task, given)
    out, target = path / "out", path / "target"
    out.mkdir()
    kind = random.choice(("folder", "nothing", "itself", "file"))
    (out / task.writes).symlink_to(task.writes if kind == "itself" else target)
    if kind == "folder":
        target.mkdir()
    elif kind == "file":
        target.write_text("precious")
    before = snapshot(path)
    ended = task(given, out)
    if refusal := refusal_of(ended, (2,)):
        require(
            snapshot(path) == before,
            f"{task.name} refuses a link, and changes {_changes(before, path)}",
        )
        return refusal
    require(
        kind in ("folder", "nothing") or task.writes == "look.png", f"{task.name} wrote over {kind}"
    )
    require(
        kind != "file" or target.read_text() == "precious",
        f"{task.name} wrote through a link to a file",
    )
    if kind == "folder" and Path(task.writes).suffix:  # a folder of Hugging Face is written there
        return ""
    require(meaning_of(out / task.writes) == expected, f"{task.name} wrote something else")
    return ""


def _inside_leads_out(random: Random, path: Path) -> str:
    """A file of the input is a link to a file outside; folders with a manifest may not have such."""
    given = path / "given"
    original = given_in(path.parent)
    task = random.choice(
        [
            task
            for task in TASKS
            if task.reads in ("run", "model", "gpt2", "hf") and task.name != GOES_ON
        ]
    )
    expected = expected_of(task, original)
    given.mkdir()
    shutil.copytree(original / task.reads, given / task.reads)
    file = random.choice(sorted(each for each in (given / task.reads).rglob("*") if each.is_file()))
    outside = path / "elsewhere"
    file.rename(outside)
    file.symlink_to(outside)
    out = path / "out"
    out.mkdir()
    ended = task(given, out)
    if refusal := refusal_of(ended, (2,)):
        require(not snapshot(out), f"{sorted(snapshot(out))} is left of {task.name}")
        require(task.reads != "hf", f"a Hugging Face folder may have links: {refusal}")
        return refusal
    if task.writes:
        require_right(task, ended, out, expected)
    return ""


def _whole_is_a_link(random: Random, path: Path) -> str:
    """The input is a link."""
    original = given_in(path.parent)
    task = random.choice([task for task in TASKS if task.name != GOES_ON])
    expected = expected_of(task, original)
    given, out = path / "given", path / "out"
    given.mkdir()
    out.mkdir()
    for each in original.iterdir():
        (given / each.name).symlink_to(each)
    ended = task(given, out)
    require(refusal_of(ended) == "", f"{task.name} does not follow a link: {ended.err[-300:]}")
    if task.writes:
        require_right(task, ended, out, expected)
    return ""


def _index_leads_out(random: Random, path: Path) -> str:
    """The index of a Hugging Face folder names a file outside of the folder."""
    original, given, out = given_in(path.parent), path / "given", path / "out"
    task: Task = next(task for task in TASKS if task.reads == "hf")
    given.mkdir()
    out.mkdir()
    shutil.copytree(original / "hf", given / "hf")
    shard = sorted((given / "hf").glob("*-of-*"))[0]
    outside = given / shard.name
    shutil.copy(shard, outside)
    name = random.choice(
        (f"../{shard.name}", str(outside), f"./../{shard.name}", f"x/../../{shard.name}")
    )
    (index,) = (given / "hf").glob("*.index.json")
    content = json.loads(index.read_text())
    content["weight_map"] = {
        tensor: name if file == shard.name else file
        for tensor, file in content["weight_map"].items()
    }
    index.write_text(json.dumps(content))
    refusal = refusal_of(task(given, out), (2,))
    require(refusal, f"an index that names {name} was believed")
    require(not snapshot(out), "something is left")
    return refusal


def _changes(before: dict[str, object], path: Path) -> list[str]:
    now = snapshot(path)
    return sorted(
        name for name in before.keys() | now.keys() if before.get(name, 0) != now.get(name, 0)
    )
