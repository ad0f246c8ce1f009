"""The kinds of files: how a valid one is made, what reads it, and which result is right."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.torture import own_readings, readings, valid_files
from tests.torture.mutations import change, flip_bit


@dataclass(frozen=True)
class Kind:
    """One line of the table."""

    name: str
    make: Callable[[Path, int], None]  # (folder, seed): writes a valid file
    opens: str  # the file or folder that is read, "" for the whole folder
    read: Callable[[Path], Any]
    # Whether what was read is right; None where only what the valid file holds is.
    agrees: Callable[[Any, Path], bool] | None
    files: str = "**/*"  # those that are damaged
    damage: Callable[[Random, bytes, bytes], bytes] = change
    new_manifests: bool = False  # checksums are made again after the damage, as an attacker would
    named: bool = False  # whether a refusal must name the damaged file


def _single_bits(random: Random, content: bytes, other: bytes) -> bytes:
    return flip_bit(random, content)


NEWEST = "run/checkpoints/step-00000003"
KINDS = (
    Kind("torch zip", valid_files.torch_zip, "w.pt", readings.checkpoint_file, readings.torch_agrees),
    Kind("torch legacy", valid_files.torch_legacy, "w.pt", readings.checkpoint_file, readings.torch_agrees),
    Kind("ckpt.pt", valid_files.whole_checkpoint, "ckpt.pt", readings.checkpoint_file, readings.torch_agrees),
    Kind(
        "ckpt.pt, converted", valid_files.whole_checkpoint, "ckpt.pt", readings.converted,
        readings.torch_agrees_on_tensors,
    ),
    Kind(
        "safetensors", valid_files.safetensors_file, "model.safetensors", readings.checkpoint_file,
        readings.safetensors_agrees,
    ),
    Kind("sharded folder", valid_files.sharded_folder, "", readings.checkpoint_file, readings.shards_agree),
    Kind(
        "config.json", valid_files.hugging_face_folder, "", readings.config_json, readings.json_agrees,
        "config.json",
    ),
    Kind("llm.c", valid_files.llmc_file, "gpt2.bin", readings.checkpoint_file, readings.llmc_agrees),
    Kind(
        "flax_model.msgpack", valid_files.msgpack_file, "flax_model.msgpack", readings.checkpoint_file,
        readings.msgpack_agrees,
    ),
    Kind(
        "characters", valid_files.characters_json, "tokenizer.json", own_readings.tokenizer,
        own_readings.characters_agree,
    ),
    Kind(
        "tokenizer.json", valid_files.byte_pairs_json, "tokenizer.json", own_readings.tokenizer,
        own_readings.tokenizers_agree,
    ),
    Kind(
        "vocab.json, merges.txt", valid_files.vocabulary_and_merges, "", own_readings.tokenizer,
        own_readings.vocabulary_agrees,
    ),
    Kind("meta.pkl", valid_files.meta_pickle, "meta.pkl", own_readings.tokenizer, own_readings.meta_agrees),
    Kind("TOML", valid_files.toml_config, "run.toml", own_readings.toml_settings, own_readings.toml_agrees),
    Kind("prepared data", valid_files.prepared_folder, "data", own_readings.data, None),
    Kind(
        "token files alone", valid_files.prepared_folder, "data", own_readings.data_without_checksums,
        own_readings.ids_agree, "data/*.bin",
    ),
    Kind("model directory", valid_files.model_folder, "model", own_readings.model, None),
    Kind(
        "model directory, forged", valid_files.model_folder, "model", own_readings.model, own_readings.is_a_model,
        new_manifests=True,
    ),
    Kind("checkpoint", valid_files.trained_run, NEWEST, own_readings.checkpoint_folder, None, f"{NEWEST}/**/*"),
    Kind(
        "checkpoint, forged", valid_files.trained_run, NEWEST, own_readings.checkpoint_folder,
        own_readings.is_a_model, f"{NEWEST}/**/*", new_manifests=True,
    ),
    Kind("run", valid_files.trained_run, "run", own_readings.run_folder, own_readings.metrics_agree, "run/*.json*"),
    Kind(
        "run, its checkpoints", valid_files.trained_run, "run", own_readings.run_folder,
        own_readings.metrics_agree, "run/checkpoints/*/*.json*",
    ),
    Kind(
        "bits of a model directory", valid_files.model_folder, "model", own_readings.model, None,
        damage=_single_bits, named=True,
    ),
    Kind(
        "bits of a checkpoint", valid_files.trained_run, NEWEST, own_readings.checkpoint_folder, None,
        f"{NEWEST}/**/*", damage=_single_bits, named=True,
    ),
    Kind(
        "bits of a token file", valid_files.prepared_folder, "data", own_readings.data, None,
        "data/*.bin", damage=_single_bits, named=True,
    ),
    Kind(
        "bits of a ckpt.pt", valid_files.whole_checkpoint, "ckpt.pt", readings.checkpoint_file, None,
        damage=_single_bits, named=True,
    ),
)  # fmt: skip
BY_NAME = {kind.name: kind for kind in KINDS}
