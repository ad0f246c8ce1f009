"""The arguments that several commands share, and how `--set` and `--torch-arg` are read."""

import json
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.seq2seq_config import ENCODER, as_options
from jaxgpt.settings import check, parse

FILE = "A PyTorch checkpoint, .pt, .pth, .bin or .safetensors, or a Hugging Face folder."
SET = "A field of the model that the file does not show, such as activation=gelu; may be repeated."
DIALECT = "The class that wrote the file, if its tensors fit several; auto for any other class."
IGNORE = "Ignore the configs in the file and next to it."

File = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE", help=FILE)]
Directory = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
Out = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
Assignments = Annotated[
    tuple[str, ...],
    tyro.conf.arg(name="set", metavar="FIELD=VALUE", help=SET),
    tyro.conf.UseAppendAction,
]
TorchArgs = Annotated[
    tuple[str, ...],
    tyro.conf.arg(name="torch-arg", metavar="NAME=VALUE"),
    tyro.conf.UseAppendAction,
]
DialectName = Annotated[str | None, tyro.conf.arg(help=DIALECT)]
IgnoreConfig = Annotated[bool, tyro.conf.arg(help=IGNORE)]
Json = Annotated[bool, tyro.conf.arg(help="Print JSON.")]


def model_fields(assignments: tuple[str, ...]) -> dict[str, Any]:
    """The fields of ModelConfig in the FIELD=VALUE words of `--set`, as typed values."""
    pairs = _pairs("--set", assignments, "activation=gelu")
    fields = {}
    for name, value in ((name.replace("-", "_"), value) for name, value in pairs):
        plain = name.removeprefix(ENCODER)
        fields[name] = parse(ModelConfig, plain, value)
        check(ModelConfig, {plain: fields[name]}, "--set")
    return as_options(fields)


def torch_arguments(assignments: tuple[str, ...]) -> dict[str, Any]:
    """The NAME=VALUE words of `--torch-arg`; each value is parsed as JSON, or else taken as
    text."""
    pairs = _pairs("--torch-arg", assignments, "n_head=6")
    return {name: _json_or_text(value) for name, value in pairs}


def _pairs(option: str, assignments: tuple[str, ...], example: str) -> list[tuple[str, str]]:
    pairs = []
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise UserError(
                f"{option} takes FIELD=VALUE, such as {example}, but got {assignment!r}."
            )
        pairs.append((name, value))
    return pairs


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
