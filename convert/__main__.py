"""The command line: jaxgpt-convert. Heavy imports wait inside the commands, so that --help answers at once."""

import json as json_format
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxgpt.commands.shell import run, working
from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.settings import parse
from jaxgpt.system import atomic_files

from .commands import console

Directory = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
Out = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
TorchArgs = Annotated[
    tuple[str, ...],
    tyro.conf.arg(name="torch-arg", metavar="NAME=VALUE"),
    tyro.conf.UseAppendAction,
]
UNPROVEN = 4  # exit code of verify
# What several commands take, and mean the same by.
FILE = "A PyTorch checkpoint, .pt, .pth, .bin or .safetensors, or a Hugging Face folder."
SET = "A field of the model that the file cannot say, such as activation=gelu; may be repeated."
WROTE = "The class that wrote the file, where its tensors fit several; auto for a table of its own."
IGNORE = "Pass over what a config in the file or beside it says."
File = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE", help=FILE)]
Given = Annotated[
    tuple[str, ...],
    tyro.conf.arg(name="set", metavar="FIELD=VALUE", help=SET),
    tyro.conf.UseAppendAction,
]
Wrote = Annotated[str | None, tyro.conf.arg(help=WROTE)]
Ignoring = Annotated[bool, tyro.conf.arg(help=IGNORE)]
Json = Annotated[bool, tyro.conf.arg(help="Print JSON.")]


def inspect(
    file: File,
    /,
    given: Given = (),
    dialect: Wrote = None,
    ignore_config: Ignoring = False,
    json: Json = False,
) -> None:
    """Say what a checkpoint holds, what of its model can be read from it, and what would be assumed."""
    from . import api

    found = api.inspect(file, dialect=dialect, ignore_config=ignore_config, **_fields(given))
    facts, report = console.facts(found), found.detected.report
    if json:
        print(json_format.dumps({**facts, **report.fields, "caveats": report.caveats}, indent=2))
        return
    for name, value in facts.items():
        print(f"{name:<12}{value:,}" if isinstance(value, int) else f"{name:<12}{value}")
    if dialect == "auto":
        from .detect.by_structure import described

        print(
            "names, as their structure explains them:",
            *described(found.detected.dialect),
            sep="\n  ",
        )
    console.report(found.detected, "would be assumed")


def to_flax(
    file: File,
    directory: Directory,
    /,
    given: Given = (),
    dialect: Wrote = None,
    ignore_config: Ignoring = False,
    dtype: Literal["float16", "bfloat16", "float32", "float64"] | None = None,
    tokenizer: Path | None = None,
    allow_nonfinite: bool = False,
    weights_only: bool = False,
) -> None:
    """Bring a PyTorch checkpoint over into a new model directory.

    Args:
        directory: The model directory to write; must not exist, or be empty.
        dtype: Store the weights in this type instead of the file's.
        tokenizer: A tokenizer.json or nanoGPT's meta.pkl to keep in the directory, instead of the
            one beside FILE.
        allow_nonfinite: Take NaN and infinite weights as they are.
        weights_only: Leave behind the optimiser and whatever else lies beside the weights.
    """
    atomic_files.require_vacant(directory)
    from . import api

    with working(f"{file} -> {directory}") as stage:
        loaded = api.to_flax(
            file,
            dialect=dialect,
            dtype=dtype,
            allow_nonfinite=allow_nonfinite,
            ignore_config=ignore_config,
            weights_only=weights_only,
            stage=stage,
            **_fields(given),
        )
        loaded.save(directory, tokenizer, stage)
    print(f"{loaded.source.path} ({loaded.dialect.name}) -> {directory}")
    if loaded.source.aside:
        print(f"Not read, for the same weights lie beside: {', '.join(loaded.source.aside)}.")
    if not tokenizer:
        console.tokenizer(loaded.tokenizer)
    console.beside(loaded.beside, directory)
    console.report(loaded.detected, "assumed")
    if dtype:
        print("verify compares in the file's own dtype: bring it over without --dtype to prove it.")
    else:
        print(f"Prove it: jaxgpt-convert verify {file} {directory}{console.class_to_name(loaded)}")


def to_torch(
    directory: Directory,
    out: Out,
    /,
    dialect: str | None = None,
    optimizer: bool = False,
    weights_only: bool = False,
    max_shard_size: str | None = None,
) -> None:
    """Write the model of a model directory as a PyTorch checkpoint, or as a folder for Hugging Face's from_pretrained.

    Args:
        directory: A model directory, from to-flax or from training.
        out: The file to write; .pt, .pth or .safetensors decides the format. A name without a suffix, or an empty
            directory, becomes a Hugging Face folder.
        dialect: The class that shall load it. Without one, a model that came from a file goes back as it was, and one
            that was trained here is written for the class most like it; folders are for gpt2, gpt1 or opt.
        optimizer: Write the optimiser's state too, where the class does not ask for it anyway.
        weights_only: Write nothing beside the weights.
        max_shard_size: Of a folder, the most that one file of weights shall have, such as 200MB; 5GB unless given.
    """
    from . import api, hub
    from .rows.dialect import FIELDS

    folder = hub.is_folder(out)
    if max_shard_size and not folder:
        raise UserError(
            f"--max-shard-size is for folders, and {out} is a file: a folder's name has no suffix."
        )
    if optimizer and folder:
        raise UserError(
            f"--optimizer is for files, and {out} is a folder: name a .pt or .pth file to have it in."
        )
    with working(f"{directory} -> {out}") as stage:
        if folder:
            written = hub.directory_to_folder(
                directory, out, dialect, max_shard_size or hub.SHARD, stage
            )
        else:
            written = api.directory_to_file(directory, out, dialect, optimizer, weights_only, stage)
    config, target = written.config, written.dialect
    sizes = ", ".join(str(getattr(config, field)) for field in list(FIELDS.values())[:5])
    print(f"{written.source} -> {out}, for the class GPT({sizes}) of dialect {target.name}")
    if written.beside:
        print(f"Beside the weights: {', '.join(map(str, written.beside))}.")
    if written.filled:
        print(
            f"This class has {', '.join(written.filled)}, which the model lacks; it was filled with zeros."
        )
    for field, (ours, usual) in written.unlike.items():
        print(
            f"warning: {field} is {ours!r}; the file cannot say so, and this class has {usual!r}.",
            file=sys.stderr,
        )


def verify(
    file: File,
    directory: Directory,
    /,
    torch: Annotated[str, tyro.conf.arg(metavar="MODULE:CLASS")] = "",
    torch_args: TorchArgs = (),
    dialect: Wrote = None,
    train_steps: int = 0,
    allow_assumed: bool = False,
    json: Json = False,
) -> int:
    """Run the torch class of FILE and the model in DIRECTORY on the same tokens. Exit code 0 when
    they are proven to be the same, 3 when they differ, 4 when equal only under assumptions.

    Args:
        directory: A model directory.
        torch: The class of FILE, module:Class or file.py:Class, or a function. Runs its code.
        torch_args: What your class should be given, such as n_head=6, as JSON or as text; may be repeated.
        train_steps: Compare also every gradient, and the parameters after N steps of AdamW.
        allow_assumed: End with exit code 0 instead of 4; the page still says that it is unproven.
    """
    from .files import torchfile

    torchfile.need_torch("verify")
    from .commands import page
    from .proving.verify import verify as run_verify

    if train_steps < 0:
        raise UserError(f"--train-steps must not be negative, but is {train_steps}.")
    if torch_args and not torch:
        raise UserError(
            "--torch-arg says what the class of --torch is given, but there is no --torch."
        )
    given = {name: _plain(value) for name, value in _pairs("--torch-arg", torch_args, "n_head=6")}
    with working(f"running {file} and {directory} in float64"):
        options: Any = {"dialect": dialect, "torch_class": torch, "torch_args": given}
        found = run_verify(file, directory, train_steps, **options)
    if json:
        print(json_format.dumps(found.as_dict(), indent=2))
    else:
        page.show(found)
    codes = {"proven": 0, "unproven": 0 if allow_assumed else UNPROVEN, "differs": 3}
    return codes[found.verdict]


def probe(
    file: File,
    /,
    text: str | None = None,
    ids: str | None = None,
    tokenizer: Path | None = None,
    given: Given = (),
    dialect: Wrote = None,
    ignore_config: Ignoring = False,
    json: Json = False,
) -> int:
    """Rank what a checkpoint leaves open, where the norms are for instance, by the loss on text of the kind that the
    model was trained on. Exit code 3 when nothing fits that text.

    Args:
        text: A text, as jaxgpt prepare takes it: a file, a folder, - for standard input, and so on.
        ids: Instead of a text: a list such as "0 29 59", or a file of such numbers, .npy, or nanoGPT's .bin.
        tokenizer: For a text: a tokenizer.json, a list of characters as JSON, or nanoGPT's meta.pkl.
    """
    from jaxgpt.data.sources import documents

    from .probing.probe import probe as run_probe
    from .tokens.encode_text import read_ids

    with working(f"probing {file}") as stage:
        found = run_probe(
            file,
            text=None
            if text is None
            else "".join(piece.text + (piece.end or "") for piece in documents([text])),
            ids=None if ids is None else read_ids(ids),
            tokenizer=tokenizer,
            dialect=dialect,
            ignore_config=ignore_config,
            tell=lambda so_far: stage(so_far, 0),
            **_fields(given),
        )
    if json:
        print(json_format.dumps(found.as_dict(), indent=2))
    else:
        console.ranking(found)
    return 0 if found.fits else 3


def _plain(value: str) -> Any:
    try:
        return json_format.loads(value)
    except (ValueError, RecursionError):  # text, then
        return value


def _pairs(option: str, given: tuple[str, ...], such_as: str) -> list[tuple[str, str]]:
    pairs = [item.partition("=") for item in given]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise UserError(f"{option} takes FIELD=VALUE, such as {such_as}, but got {wrong[0]!r}.")
    return [(name, value) for name, _, value in pairs]


def _fields(given: tuple[str, ...]) -> Any:
    pairs = [
        (name.replace("-", "_"), value) for name, value in _pairs("--set", given, "activation=gelu")
    ]
    return {name: parse(ModelConfig, name, value) for name, value in pairs}


def main() -> None:
    commands: dict[str, Callable[..., Any]] = {
        "inspect": inspect,
        "to-flax": to_flax,
        "to-torch": to_torch,
        "verify": verify,
        "probe": probe,
    }
    about = "Carry GPT checkpoints between PyTorch and Flax, and prove that nothing changed."
    run("jaxgpt-convert", about, commands, sys.argv[1:])


if __name__ == "__main__":
    main()
