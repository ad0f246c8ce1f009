"""The command line: jaxgpt-convert. Heavy imports wait inside the commands, so that --help answers at once."""

import json as json_format
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from convert import show
from jaxgpt import disk
from jaxgpt.config import ModelConfig, UserError
from jaxgpt.settings import parse
from jaxgpt.shell import run, working

File = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
Directory = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
Out = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
Given = Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="FIELD=VALUE"), tyro.conf.UseAppendAction]


def inspect(
    file: File, /, given: Given = (), dialect: str | None = None, ignore_config: bool = False, json: bool = False
) -> None:
    """Say what a checkpoint holds, what of its model can be read from it, and what would be assumed.

    Args:
        file: A PyTorch checkpoint, .pt, .pth, .bin or .safetensors, or a Hugging Face folder.
        given: A field of the model that the file cannot say, such as activation=gelu; may be repeated.
        dialect: The class that wrote the file, where its tensors fit several; auto for a table of its own.
        ignore_config: Pass over what a config in the file or beside it says.
        json: Print JSON.
    """
    from convert import carry

    found = carry.inspect(file, dialect=dialect, ignore_config=ignore_config, **_fields(given))
    source, report = found.source, found.detected.report
    facts = {
        "file": str(source.path),
        "container": source.container,
        "state dict": f"under {source.nested!r}" if source.nested else "at the root",
        "beside it": ", ".join(map(str, source.extras)) or "nothing",
        "prefix": source.prefix or "none",
        "dialect": found.detected.dialect.name,
        "tensors": len(source.tensors),
        "parameters": found.parameters,
        "dtypes": ", ".join(f"{name} x {count}" for name, count in found.dtypes.items()),
    }
    if json:
        print(json_format.dumps({**facts, **vars(report)}, indent=2))
        return
    for name, value in facts.items():
        print(f"{name:<12}{value:,}" if isinstance(value, int) else f"{name:<12}{value}")
    if dialect == "auto":
        from convert.propose import described

        print("names, as their structure explains them:", *described(found.detected.dialect), sep="\n  ")
    show.report(found.detected, "would be assumed")


def to_flax(
    file: File,
    directory: Directory,
    /,
    given: Given = (),
    dialect: str | None = None,
    ignore_config: bool = False,
    dtype: Literal["float16", "bfloat16", "float32", "float64"] | None = None,
    tokenizer: Path | None = None,
    allow_nonfinite: bool = False,
) -> None:
    """Bring a PyTorch checkpoint over into a new model directory.

    Args:
        file: A PyTorch checkpoint, .pt, .pth, .bin or .safetensors, or a Hugging Face folder.
        directory: The model directory to write; must not exist, or be empty.
        given: A field of the model that the file cannot say, such as activation=gelu; may be repeated.
        dialect: The class that wrote the file, where its tensors fit several; auto for a table of its own.
        ignore_config: Pass over what a config in the file or beside it says.
        dtype: Store the weights in this type instead of the file's.
        tokenizer: A tokenizer.json to keep in the directory.
        allow_nonfinite: Take NaN and infinite weights as they are.
    """
    disk.require_vacant(directory)
    from convert import carry

    with working(f"{file} -> {directory}"):
        loaded = carry.to_flax(
            file,
            dialect=dialect,
            dtype=dtype,
            allow_nonfinite=allow_nonfinite,
            ignore_config=ignore_config,
            **_fields(given),
        )
        loaded.save(directory, tokenizer)
    print(f"{loaded.source.path} ({loaded.dialect.name}) -> {directory}")
    if loaded.source.aside:
        print(f"Not read, for the same weights lie beside: {', '.join(loaded.source.aside)}.")
    if loaded.characters and not tokenizer:
        print(f"Its {len(loaded.characters)} characters, which lay beside the weights, are the tokenizer.")
    show.report(loaded.detected, "assumed")
    if loaded.report.given or dtype:
        print(f"verify compares with the class {loaded.dialect.about} as it usually is, in the file's own dtype.")
    else:
        print(f"Prove it: jaxgpt-convert verify {file} {directory}")


def to_torch(directory: Directory, out: Out, /, dialect: str | None = None) -> None:
    """Write the model of a model directory as a PyTorch checkpoint.

    Args:
        directory: A model directory, from to-flax or from training.
        out: The file to write; .pt, .pth or .safetensors decides the format.
        dialect: The class that shall load the file. Without one, a model that came from a file goes back as it was.
    """
    from convert import carry
    from convert.rows import FIELDS

    with working(f"{directory} -> {out}"):
        written = carry.directory_to_file(directory, out, dialect)
    config, target = written.config, written.dialect
    sizes = ", ".join(str(getattr(config, field)) for field in list(FIELDS.values())[:5])
    print(f"{written.source} -> {out}, for the class GPT({sizes}) of dialect {target.name}")
    if written.filled:
        print(f"This class has {', '.join(written.filled)}, which the model lacks; it was filled with zeros.")
    for field, (ours, usual) in carry.unlike_its_class(config, target).items():
        print(f"warning: {field} is {ours!r}; the file cannot say so, and this class has {usual!r}.", file=sys.stderr)


def verify(file: File, directory: Directory, /, train_steps: int = 0, json: bool = False) -> int:
    """Run the torch class that wrote FILE and the model in DIRECTORY on the same tokens, and compare. Exit code 3
    when they differ.

    Args:
        file: A PyTorch checkpoint.
        directory: A model directory.
        train_steps: Compare also every gradient, and the parameters after so many AdamW steps.
        json: Print JSON.
    """
    from convert import parity

    if train_steps < 0:
        raise UserError(f"--train-steps must not be negative, but is {train_steps}.")
    with working(f"running {file} and {directory} in float64"):
        page = parity.verify(file, directory, train_steps)
    if json:
        print(json_format.dumps(page.as_dict(), indent=2))
    else:
        show.page(page)
    return 0 if page.same else 3


def probe(
    file: File,
    /,
    text: str | None = None,
    ids: str | None = None,
    tokenizer: Path | None = None,
    given: Given = (),
    dialect: str | None = None,
    ignore_config: bool = False,
    json: bool = False,
) -> int:
    """Rank what a checkpoint leaves open, where the norms are for instance, by the loss on text of the kind that the
    model was trained on. Exit code 3 when nothing fits that text.

    Args:
        file: A PyTorch checkpoint, .pt, .pth, .bin or .safetensors, or a Hugging Face folder.
        text: A text, as jaxgpt prepare takes it: a file, a folder, - for standard input, and so on.
        ids: Instead of a text: a list such as "0 29 59", or a file of such numbers, .npy, or nanoGPT's .bin.
        tokenizer: A tokenizer.json, or a list of characters as JSON, for a text.
        given: A field of the model that is known and shall not be varied, such as activation=gelu; may be repeated.
        dialect: The class that wrote the file, where its tensors fit several; auto for a table of its own.
        ignore_config: Pass over what a config in the file or beside it says.
        json: Print JSON.
    """
    from convert.ids import read_ids
    from convert.probing import probe as run_probe
    from jaxgpt.corpus import documents

    with working(f"probing {file}") as status:
        found = run_probe(
            file,
            text=None if text is None else "".join(piece.text + (piece.end or "") for piece in documents([text])),
            ids=None if ids is None else read_ids(ids),
            tokenizer=tokenizer,
            dialect=dialect,
            ignore_config=ignore_config,
            tell=lambda so_far: status and status.update(f"probing {file}: {so_far}"),
            **_fields(given),
        )
    if json:
        print(json_format.dumps(found.as_dict(), indent=2))
    else:
        show.ranking(found)
    return 0 if found.fits else 3


def _fields(given: tuple[str, ...]) -> Any:
    pairs = [item.partition("=") for item in given]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise UserError(f"--set takes FIELD=VALUE, such as activation=gelu, but got {wrong[0]!r}.")
    return {name: parse(ModelConfig, name, value) for name, _, value in pairs}


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
