import json
import shutil
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint
import pytest

import jaxgpt
from jaxgpt import file_names
from jaxgpt.config import ModelConfig
from jaxgpt.data.tokenizer import train_char
from jaxgpt.errors import UserError
from jaxgpt.model import GPT, params_of
from jaxgpt.pytree import flatten
from jaxgpt.storage import model_directory, run_directory
from jaxgpt.system import directories, json_files

CONFIG = ModelConfig(vocab_size=23, context_length=11, model_dim=14, num_blocks=3, num_heads=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model"
    model_directory.save(path, CONFIG, params_of(GPT(CONFIG, seed=5)), {"note": "kept"})
    return path


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_saving_and_loading_is_identity_in_every_dtype(tmp_path: Path, dtype: type) -> None:
    params = jax.tree.map(lambda x: np.asarray(x).astype(dtype), params_of(GPT(CONFIG)))
    model_directory.save(tmp_path / "m", CONFIG, params)
    opened = model_directory.ModelDirectory(tmp_path / "m")
    assert opened.config == CONFIG
    restored = flatten(opened.params())
    for path, value in flatten(params).items():
        assert restored[path].dtype == dtype
        assert restored[path].tobytes() == value.tobytes()
        assert opened.read(path).tobytes() == value.tobytes()
    assert jaxgpt.load(tmp_path / "m").dtype == dtype


def test_a_loaded_model_computes_the_same(whole: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 23, (2, 11))
    np.testing.assert_array_equal(jaxgpt.load(whole)(ids), GPT(CONFIG, seed=5)(ids))
    assert json.loads((whole / "config.json").read_text())["note"] == "kept"


def test_a_directory_replaced_while_it_is_read_is_detected(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "m")
    opened = model_directory.ModelDirectory(tmp_path / "m")
    opened.read("head/kernel")
    (tmp_path / "m").rename(tmp_path / "before")
    model_directory.save(tmp_path / "m", CONFIG, params_of(GPT(CONFIG, seed=6)))
    for read in (opened.params, lambda: opened.read("head/kernel")):
        with pytest.raises(UserError, match="was changed or replaced while it was read"):
            read()


def test_wrong_parameters_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="head/kernel is missing"):
        params = params_of(GPT(CONFIG))
        del params["head"]["kernel"]
        model_directory.save(tmp_path / "m", CONFIG, params)
    assert not list(tmp_path.iterdir())


def test_a_flipped_bit_in_any_file_is_found_and_named(whole: Path, tmp_path: Path) -> None:
    """No file format detects it; orbax returns wrong arrays."""
    for name in json.loads((whole / file_names.MANIFEST).read_text())["files"]:
        copy = shutil.copytree(whole, tmp_path / "copy")
        damaged = bytearray((copy / name).read_bytes())
        damaged[len(damaged) // 2] ^= 4
        (copy / name).write_bytes(damaged)
        with pytest.raises(UserError, match=name):
            jaxgpt.load(copy)
        shutil.rmtree(copy)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model_dim": 16, "head_dim": 8},
            r"token_embedding/embedding is \(23, 14\), expected \(23, 16\)",
        ),
        ({"qkv_bias": True}, "blocks/attn/qkv/bias is missing"),
        ({"zebra": 1}, "there is no setting zebra"),
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_refused(
    whole: Path, tmp_path: Path, fields: dict, message: str
) -> None:
    copy = shutil.copytree(whole, tmp_path / "copy")
    values = json.loads((copy / "config.json").read_text())
    values["model"] |= fields
    (copy / "config.json").write_text(json.dumps(values))
    directories.write_manifest(copy)
    with pytest.raises(UserError, match=message):
        jaxgpt.load(copy)


def test_a_model_saved_before_a_field_existed_is_read(whole: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(whole, tmp_path / "copy")
    values = json.loads((copy / "config.json").read_text())
    for newer in ("positions_stored", "positions_offset"):
        del values["model"][newer]
    (copy / "config.json").write_text(json.dumps(values))
    directories.write_manifest(copy)
    assert model_directory.ModelDirectory(copy).config == CONFIG
    ids = np.random.default_rng(0).integers(0, 23, (2, 11))
    np.testing.assert_array_equal(jaxgpt.load(copy)(ids), jaxgpt.load(whole)(ids))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("_METADATA", b"{}"),
        ("_METADATA", b'{"tree_metadata": ' + b"[" * 50_000),
    ],
)
def test_arrays_that_orbax_cannot_read_are_named(
    name: str, content: bytes, whole: Path, tmp_path: Path
) -> None:
    """Damaged before the checksums were computed, or by somebody who recomputed them."""
    copy = shutil.copytree(whole, tmp_path / "copy")
    for file in (copy / "weights").glob(name):
        file.write_bytes(content)
    directories.write_manifest(copy)
    with pytest.raises(UserError, match=r"copy/weights cannot be read as arrays \("):
        jaxgpt.load(copy)


def test_damage_that_shows_when_arrays_are_read_is_named(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failing disk is not called damage, although orbax raises the same error for both."""
    opened = model_directory.ModelDirectory(whole)

    def fail(*_: object, **__: object) -> None:
        raise ValueError(message)

    monkeypatch.setattr(orbax.checkpoint.PyTreeCheckpointer, "restore", fail)
    message = "OUT_OF_RANGE: Requested byte range is not valid"
    with pytest.raises(UserError, match=r"model/weights cannot be read as arrays \(OUT_OF_RANGE"):
        opened.params()
    message = "UNKNOWN: [os_error_code='5']"
    with pytest.raises(OSError, match="Input/output error"):
        opened.params()


@pytest.mark.parametrize(
    "state",
    [
        {"step": np.int32(1)},
        {"opt": {"count": np.int32(1), "mu": {}, "nu": {}}},
        {"step": np.zeros(2), "opt": {"count": np.int32(1), "mu": {}, "nu": {}}},
        {"step": np.int32(1), "opt": {"count": np.int32(1), "mu": np.ones(1), "nu": np.ones(1)}},
    ],
)
def test_a_state_that_is_not_adamws_is_refused(state: dict[str, object], tmp_path: Path) -> None:
    params = params_of(GPT(CONFIG))
    model_directory.save(tmp_path / "m", CONFIG, params, state=state)
    with pytest.raises(UserError, match="m/state is not the state of a run with AdamW"):
        model_directory.ModelDirectory(tmp_path / "m").moments()


def test_a_path_that_is_no_model_directory_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError, match=f"{path}"):
            jaxgpt.load(path)
    with directories.new_directory(tmp_path / "other") as partial:
        json_files.write_json(partial / "config.json", {"data": {}})
    with pytest.raises(UserError, match="no section model"):
        jaxgpt.load(tmp_path / "other")


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints that have a file of every kind."""
    run, params = tmp_path_factory.mktemp("runs") / "run", params_of(GPT(CONFIG, seed=5))
    for step in (10, 20):
        path, tokenizer = run_directory.checkpoint_of(run, step), train_char(["abc"])
        model_directory.save(
            path,
            CONFIG,
            params,
            {"val_loss": 1.0},
            tokenizer,
            state={"step": np.int32(step)},
            metrics=b"{}\n",
        )
    return run


KINDS = [
    "config.json",
    "tokenizer.json",
    "metrics.jsonl",
    "manifest.json",
    "weights/d/*",
    "weights/_METADATA",
]
KINDS += ["weights/manifest.ocdbt", "state/d/*", "state/_METADATA", "state/manifest.ocdbt"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_named_and_the_checkpoint_before_is_used(
    kind: str, two_checkpoints: Path, tmp_path: Path
) -> None:
    run, said = tmp_path / "run", list[str]()
    shutil.copytree(two_checkpoints, run)
    old, new = run_directory.checkpoints(run)
    file = next(new.glob(kind))
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    found = model_directory.newest_whole(run, said.append)
    assert found is not None
    assert found.path == old
    (warning,) = said
    assert warning.startswith("WARNING: ")
    assert kind == "manifest.json" or str(file.relative_to(new)) in warning
    assert str(new) in warning
    assert (
        f"It is now {new.with_name('damaged-step-00000020')}, and the run resumes from {old}."
        in warning
    )
    assert run_directory.checkpoints(run) == [old]


def test_without_an_intact_checkpoint_a_run_does_not_start_over(
    two_checkpoints: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(two_checkpoints, run)
    for path in run_directory.checkpoints(run):
        (path / "config.json").write_text("{}")
    with pytest.raises(
        UserError, match="None of the checkpoints in .*run is whole.*To start over, remove "
    ):
        model_directory.newest_whole(run, print)
    assert len(run_directory.checkpoints(run)) == 2
    assert model_directory.newest_whole(tmp_path / "new", print) is None


def test_an_older_format_is_refused_with_a_way_to_migrate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ModelConfig(vocab_size=11, context_length=5, model_dim=6, num_blocks=1, num_heads=2)
    with monkeypatch.context() as older:
        older.setattr(model_directory, "FORMAT", 1)
        model_directory.save(tmp_path / "m", config, params_of(GPT(config)))
    with pytest.raises(
        UserError, match=r"m has format 1, .* reads format 2.*to-flax; or, .*to-torch"
    ):
        jaxgpt.load(tmp_path / "m")


def test_a_missing_directory_is_refused_with_a_suggestion(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="^shk is not a directory.* There is none next to it.$"):
        jaxgpt.load("shk")
    shutil.copytree(whole, tmp_path / "shakespeare")
    with pytest.raises(UserError, match="^shakespear is not a dir.* Did you mean shakespeare[?]$"):
        jaxgpt.load("shakespear")
    (tmp_path / "w.pt").write_bytes(b"")
    with pytest.raises(UserError, match="^w.pt is a file, .* to-flax w.pt DIR makes a model"):
        jaxgpt.load("w.pt")
