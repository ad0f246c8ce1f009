"""Settings that a class's programs write into the folder of its weights, by file name."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxgpt.errors import UserError, in_a_row
from jaxgpt.system.json_files import read_json

from .flat_yaml import read_flat_yaml
from .hf_folder import CONFIG, MOST, config_beside

META_PARAMS, LITGPT = "params.json", "model_config.yaml"
# Settings of litgpt that ModelConfig cannot express, unless they are null or 0.
BEYOND_LITGPT = (
    "n_expert", "latent_attention", "rope_adjustments", "rope_indices", "rope_local_base_freq",
    "sliding_window_size", "attention_scores_scalar",
)  # fmt: skip


def configs_beside(path: Path) -> dict[str, Mapping[str, Any]]:
    """The settings in the folder of the weights `path`, by the name of their file."""
    configs = {CONFIG: config_beside(path)}
    folder = path.parent
    if path.name.startswith("consolidated") and (folder / META_PARAMS).is_file():
        configs[META_PARAMS] = _json(folder / META_PARAMS)
    if path.name.startswith("lit_model") and (folder / LITGPT).is_file():
        configs[LITGPT] = _litgpt(folder / LITGPT)
    if step := re.fullmatch(r"model_(\d{1,12})\.pt", path.name):
        meta = folder / f"meta_{step[1]}.json"  # nanochat's
        if meta.is_file():
            configs[meta.name] = _json(meta)
    return configs


def _json(path: Path) -> Mapping[str, Any]:
    return read_json(path, "Correct it or move it away.", MOST)


def _litgpt(path: Path) -> Mapping[str, Any]:
    """The settings of a litgpt model, in words that are known from other classes."""
    settings = read_flat_yaml(path)
    beyond = [f"{key} = {settings[key]}" for key in BEYOND_LITGPT if settings.get(key)]
    if beyond:
        raise UserError(
            f"{path} says {in_a_row(beyond)}, which no single field of the model expresses: move "
            "the file away, and set the fields that do exist with --set."
        )
    if settings.get("padded_vocab_size"):
        settings["vocab_size"] = settings["padded_vocab_size"]  # the rows of the embedding
    width = settings.get("n_embd")
    if settings.get("scale_embeddings") is True and isinstance(width, int):
        settings["embedding_scale"] = width**0.5
    return settings
