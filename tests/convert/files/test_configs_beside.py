"""Settings next to weights: what is read from them, and that hostile ones do no harm."""

import json
from pathlib import Path

import pytest

from convert.files.configs_beside import configs_beside
from convert.files.flat_yaml import MOST, read_flat_yaml
from jaxgpt.errors import UserError


def test_plain_values_of_a_flat_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "name: tiny-llama  # a comment\nn_layer: 2\nnorm_eps: 1.0e-05\nbias: false\nnone: null\n"
        "empty:\nquoted: 'a: b'\nnegative: -3\nhalf: .5\n"
    )
    assert read_flat_yaml(path) == {
        "name": "tiny-llama", "n_layer": 2, "norm_eps": 1e-5, "bias": False, "none": None, "empty": None,
        "quoted": "a: b", "negative": -3, "half": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "n_layer: !!python/object/apply:os.system [id]", "n_layer: *alias", "n_layer: &a 3", "n_layer: {a: 1}",
        "n_layer: [1, 2]", "  n_layer: 2", "- n_layer", "n_layer: |", "n_layer: 99999999999999999999999",
        "\x00", "n_layer: 'a", f"{'a' * 200}: 1",
    ],
)  # fmt: skip
def test_what_is_no_plain_value_is_passed_over(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"{line}\nn_head: 4\n")
    settings = read_flat_yaml(path)
    assert settings["n_head"] == 4
    assert settings.get("n_layer") in (None, 99999999999999999999999.0)


def test_a_huge_file_of_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a" * (MOST + 1))
    with pytest.raises(UserError, match="more than settings take"):
        read_flat_yaml(path)


def test_each_class_has_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text(json.dumps({"dim": 8}))
    (tmp_path / "meta_000500.json").write_text(json.dumps({"model_config": {"n_head": 2}}))
    (tmp_path / "model_config.yaml").write_text(
        "n_embd: 9\nvocab_size: 95\npadded_vocab_size: 96\nscale_embeddings: true\n"
    )
    read = {
        name: configs_beside(tmp_path / name)
        for name in ("consolidated.00.pth", "model_000500.pt", "lit_model.pth", "w.pt")
    }
    assert read["consolidated.00.pth"]["params.json"] == {"dim": 8}
    assert read["model_000500.pt"]["meta_000500.json"] == {"model_config": {"n_head": 2}}
    litgpt = read["lit_model.pth"]["model_config.yaml"]
    assert (litgpt["vocab_size"], litgpt["embedding_scale"]) == (96, 3.0)
    assert read["w.pt"] == {"config.json": {}}


@pytest.mark.parametrize("setting", ["n_expert: 8", "sliding_window_size: 512"])
def test_settings_of_litgpt_without_a_counterpart_are_named(tmp_path: Path, setting: str) -> None:
    (tmp_path / "model_config.yaml").write_text(f"{setting}\n")
    with pytest.raises(
        UserError,
        match=f"{setting.replace(': ', ' = ')}, which no single field of the model expresses",
    ):
        configs_beside(tmp_path / "lit_model.pth")
