"""TensorBoard and Weights & Biases get the metrics if a setting says so, each step once."""

import dataclasses
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from jaxgpt.config import Config, DataConfig, RunConfig
from jaxgpt.errors import UserError
from jaxgpt.training import trackers

CONFIG = Config(DataConfig("x"), RunConfig("y"))


def asked(**fields: object) -> Config:
    return dataclasses.replace(CONFIG, run=RunConfig("y", **fields))  # type: ignore[arg-type]


def test_trackers_are_off_by_default(tmp_path: Path) -> None:
    with trackers.trackers(CONFIG, tmp_path, 0) as opened:
        assert opened == []
    assert list(tmp_path.iterdir()) == []


def events(folder: Path) -> Iterator[bytes]:
    """Records of TensorBoard's files: a length, its checksum, so many bytes, their checksum."""
    for file in sorted(folder.iterdir()):
        rest = file.read_bytes()
        while rest:
            (length,) = struct.unpack("<Q", rest[:8])
            yield rest[12 : 12 + length]
            rest = rest[16 + length :]


def test_tensorboard_gets_each_line_and_drops_recomputed_steps(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    for since in (0, 10):
        with trackers.trackers(asked(tensorboard=True), tmp_path, since) as (track,):
            track({"step": since + 10, "loss": 2.5, "val_loss": None})
    found = [Event.FromString(record) for record in events(tmp_path / "tensorboard")]
    assert [(e.step, v.tag, v.simple_value) for e in found for v in e.summary.value] == [
        (10, "loss", 2.5),
        (20, "loss", 2.5),
    ]
    assert 11 in [e.step for e in found if e.session_log.status == SessionLog.START]


def test_wandb_continues_the_same_run_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in provides the few names used, since the real library starts services of its own."""
    logged: list[object] = []

    class Session:
        def __init__(self, **options: object):
            logged.append(options)

        def __enter__(self) -> "Session":
            return self

        def __exit__(self, *error: object) -> None:
            logged.append("finished")

        def log(self, values: dict[str, float], step: int) -> None:
            logged.append((step, values))

    library = ModuleType("wandb")
    library.init = Session  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", library)
    with trackers.trackers(asked(wandb="poems"), tmp_path / "run7", 0) as (track,):
        track({"step": 10, "loss": 2.5})
    options = logged[0]
    assert isinstance(options, dict)
    assert (options["project"], options["id"], options["resume"]) == ("poems", "run7", "allow")
    assert logged[1:] == [(10, {"loss": 2.5}), "finished"]


@pytest.mark.parametrize(
    ("setting", "library"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")]
)
def test_a_missing_library_is_named(
    setting: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    value = {"tensorboard": True, "wandb": "poems"}[setting]
    opening = trackers.trackers(asked(**{setting: value}), tmp_path, 0)
    with (
        pytest.raises(UserError, match=f"needs {library}.*: pip install --upgrade {library}"),
        opening,
    ):
        pass
