"""The small valid files that are damaged, made by our own code or by torch."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers import TEXT, settings, write_toml

SIZES = {"vocab_size": 23, "context_length": 6, "model_dim": 8, "num_blocks": 2, "num_heads": 2}
GPT2 = {
    "model_type": "gpt2", "vocab_size": 23, "n_positions": 6, "n_embd": 8, "n_layer": 2, "n_head": 2,
    "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new", "tie_word_embeddings": True,
}  # fmt: skip
RUN: dict[str, dict[str, Any]] = {
    "model": {"context_length": 6, "model_dim": 8, "num_blocks": 1},
    "train": {"steps": 3, "batch_size": 2, "log_every": 1, "eval_every": 1, "eval_batches": 1},
}


def reference(seed: int) -> Any:
    """The torch GPT of the project, with random weights of `seed`."""
    import torch

    from convert.reference import GPT

    torch.manual_seed(seed)
    return GPT(*SIZES.values())


def gpt2_state(seed: int) -> dict[str, np.ndarray]:
    """Tensors with the names and shapes of GPT-2's class."""
    from convert.dialects import named
    from convert.rows import whole
    from jaxgpt.config import ModelConfig
    from jaxgpt.model import abstract_params
    from jaxgpt.pytree import flatten, unflatten

    config = ModelConfig(**SIZES, tied=True, head_bias=False, qkv_bias=True, activation="gelu_tanh")
    random = np.random.default_rng(seed)
    like = flatten(abstract_params(config))
    params = {path: random.normal(size=leaf.shape).astype("f4") for path, leaf in like.items()}
    return whole.to_torch(named("gpt2"), config, unflatten(params))


def torch_zip(folder: Path, seed: int) -> None:
    import torch

    state = reference(seed).state_dict()
    torch.save({name: value.to(torch.bfloat16) for name, value in state.items()}, folder / "w.pt")


def torch_legacy(folder: Path, seed: int) -> None:
    import torch

    state = reference(seed).state_dict()
    torch.save(state, folder / "w.pt", _use_new_zipfile_serialization=False)


def whole_checkpoint(folder: Path, seed: int) -> None:
    """Weights, the state of an optimiser after one step, settings, and a counter."""
    import torch

    model = reference(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    logits = model(torch.arange(6)[None])
    (logits[0] if isinstance(logits, tuple) else logits).square().sum().backward()
    optimizer.step()
    root = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "config": {**SIZES, "dropout": 0.2, "name": "small"},
        "iter_num": 7,
        "best_val_loss": torch.tensor(2.5),
    }
    torch.save(root, folder / "ckpt.pt")


def safetensors_file(folder: Path, seed: int) -> None:
    from safetensors.numpy import save_file

    save_file(gpt2_state(seed), folder / "model.safetensors", {"format": "pt"})


def sharded_folder(folder: Path, seed: int) -> None:
    from safetensors.numpy import save_file

    state = gpt2_state(seed)
    names, where = list(state), {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, folder / file)
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def hugging_face_folder(folder: Path, seed: int) -> None:
    safetensors_file(folder, seed)
    (folder / "config.json").write_text(json.dumps(GPT2, indent=1))


def llmc_file(folder: Path, seed: int) -> None:
    width, layers, padded, context = 8, 2, 32, 6
    block = 12 * width**2 + 13 * width
    count = (padded + context + 2) * width + layers * block
    numbers = np.zeros(256, "<i4")
    numbers[:8] = 20240326, 3, context, 23, layers, 2, width, padded
    values = np.random.default_rng(seed).normal(size=count).astype("<f4")
    (folder / "gpt2.bin").write_bytes(numbers.tobytes() + values.tobytes())


def msgpack_file(folder: Path, seed: int) -> None:
    from flax import serialization

    tree: dict[str, Any] = {}
    for name, array in gpt2_state(seed).items():
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[{"weight": "kernel"}.get(last, last)] = array
    (folder / "flax_model.msgpack").write_bytes(serialization.to_bytes(tree))


def characters_json(folder: Path, seed: int) -> None:
    (folder / "tokenizer.json").write_text(json.dumps({"kind": "char", "characters": [*"abc \n"]}))


def byte_pairs_json(folder: Path, seed: int) -> None:
    from jaxgpt.data.bpe import train_bpe

    train_bpe(iter([TEXT]), 270).save(folder / "tokenizer.json")


def vocabulary_and_merges(folder: Path, seed: int) -> None:
    import tokenizers

    byte_pairs_json(folder, seed)
    tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).model.save(str(folder))
    (folder / "tokenizer.json").unlink()


def meta_pickle(folder: Path, seed: int) -> None:
    stoi = {character: i for i, character in enumerate("abcdef \n")}
    meta = {"vocab_size": 8, "itos": {i: c for c, i in stoi.items()}, "stoi": stoi}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def prepared_folder(folder: Path, seed: int) -> None:
    from jaxgpt.data.prepare import prepare

    text = folder / "text.txt"
    text.write_text(TEXT[: 600 + seed])
    prepare([str(text)], folder / "data")
    text.unlink()


def toml_config(folder: Path, seed: int) -> None:
    write_toml(folder / "run.toml", settings(Path("text.txt"), Path("run"), **RUN))


def model_folder(folder: Path, seed: int) -> None:
    from jaxgpt.config import ModelConfig
    from jaxgpt.data.tokenizer import train_char
    from jaxgpt.model import GPT, params_of
    from jaxgpt.storage import model_directory

    config = ModelConfig(**SIZES)
    params = params_of(GPT(config, seed=seed))
    model_directory.save(folder / "model", config, params, {"note": "x"}, train_char([TEXT]))


def trained_run(folder: Path, seed: int) -> None:
    """A run with two checkpoints, which have the state of the optimiser."""
    from jaxgpt.training.run import train

    (folder / "text.txt").write_text(TEXT)
    sections = settings(folder / "text.txt", folder / "run", **RUN)
    train(sections, "run.toml", say=lambda line: None)
    (folder / "text.txt").unlink()
    (folder / "run" / "loss.png").unlink(missing_ok=True)
