"""jaxgpt-convert to-torch: a model directory to a checkpoint file or a Hugging Face folder."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jaxgpt.errors import UserError, in_a_row
from jaxgpt.seq2seq_config import Seq2SeqConfig, field_of
from jaxgpt.system.stages import working

from .options import Directory, Out

if TYPE_CHECKING:
    from ..write_plan import Written

SIZES = ("vocab_size", "context_length", "model_dim", "num_blocks", "num_heads")


def to_torch(
    directory: Directory,
    out: Out,
    /,
    *,
    dialect: str | None = None,
    optimizer: bool = False,
    weights_only: bool = False,
    max_shard_size: str | None = None,
) -> None:
    """Write a model as a PyTorch checkpoint, or as a folder for Hugging Face's from_pretrained.

    Args:
        directory: A model directory, from to-flax or from training.
        out: The file to write; .pt, .pth or .safetensors decides the format, and .bin is for
            llama2.c's program. A name without a suffix, or an empty directory, becomes a Hugging
            Face folder.
        dialect: The class that will load it. By default a converted model is written as its file
            was, and a model trained here for the class most like it; folders are for classes of
            Hugging Face, such as llama or gpt2.
        optimizer: Write the optimiser's state too, for a class whose files need not have one.
        weights_only: Write the weights without any extras.
        max_shard_size: The largest file of weights in a folder, such as 200MB; default 5GB.
    """
    from .. import api, hub

    folder = hub.is_folder(out)
    _require_consistent(out, folder, optimizer, max_shard_size)
    with working(f"{directory} -> {out}") as stage:
        if folder:
            shard = max_shard_size or hub.SHARD
            written = hub.directory_to_folder(directory, out, dialect, shard, stage)
        else:
            written = api.directory_to_file(directory, out, dialect, optimizer, weights_only, stage)
    _show(written, out, folder)


def _require_consistent(
    out: Path, folder: bool, optimizer: bool, max_shard_size: str | None
) -> None:
    if max_shard_size and not folder:
        raise UserError(
            f"--max-shard-size is for folders, and {out} is a file: a folder's name has no suffix."
        )
    if optimizer and folder:
        raise UserError(
            f"--optimizer is for files, and {out} is a folder: name a .pt or .pth file for it."
        )


def _show(written: "Written", out: Path, folder: bool) -> None:
    sizes = ", ".join(str(field_of(written.config, field)) for field in SIZES)
    name = written.dialect.name
    pair = isinstance(written.config, Seq2SeqConfig)
    cls = "an encoder-decoder" if pair else f"the class GPT({sizes})"
    if folder and written.dialect.hub:
        cls = written.dialect.hub.architecture
    print(f"{written.source} -> {out}, for {cls} of dialect {name}")
    if written.extras:
        names = in_a_row([", ".join(map(str, written.extras))])
        print(f"With the extras {names}.")
    if written.filled:
        filled = ", ".join(written.filled)
        print(f"This class has {filled}, which the model lacks; it was filled with zeros.")
    for field, (ours, usual) in written.unlike.items():
        print(
            f"warning: {field} is {ours!r}, which the file cannot record; this class computes with "
            f"{usual!r}.",
            file=sys.stderr,
        )
