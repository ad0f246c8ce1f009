"""Arguments that several commands take, and the settings of a run as options, from `Config`."""

import dataclasses
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

import tyro

from jaxgpt.fields import explanations
from jaxgpt.settings import parse, require_setting, sections_of_a_run, typed

Directory = Annotated[
    Path,
    tyro.conf.Positional,
    tyro.conf.arg(metavar="DIR", help="A model directory, or a run.", help_behavior_hint=""),
]
OptionalFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
TOKENIZER = (
    "Tokenizer to use instead of the model's own: a run, a tokenizer.json, a list of characters "
    "as JSON, or nanoGPT's meta.pkl."
)
Tokenizer = Annotated[OptionalFile, tyro.conf.arg(help=TOKENIZER)]
TARGETS = "Tokenizer of the targets of an encoder-decoder, where it is not that of the sources."
TargetTokenizer = Annotated[OptionalFile, tyro.conf.arg(help=TARGETS)]
UNKNOWN = "What to do with characters that the tokenizer lacks: strict refuses, skip drops them."
Unknown = Annotated[Literal["strict", "skip"], tyro.conf.arg(help=UNKNOWN)]
WEIGHTS = (
    "stored takes the weights as they are in the directory. int8 rounds the kernels, with which a "
    "CPU generates one text about 1.7 times as fast."
)
Weights = Annotated[Literal["stored", "int8"], tyro.conf.arg(help=WEIGHTS)]

# The help of a section, where the docstring of its class says something else.
ABOUT = {"encoder": "The encoder of an encoder-decoder, where it differs from the model section."}
KINDS = {int: "INT", float: "FLOAT", str: "TEXT"}
LISTS = {list: "LIST", dict: "TABLE"}


def metavar(hint: Any) -> str:
    """The values that a setting of type `hint` takes, as help pages write them."""
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    alternatives = typing.get_args(hint) if union else [hint]
    choices = [choice for one in alternatives for choice in choices_of(one)]
    kinds = [KINDS[one] for one in alternatives if one in KINDS]
    kinds += [LISTS[origin] for one in alternatives if (origin := typing.get_origin(one)) in LISTS]
    return "|".join([f"{{{','.join(choices)}}}", *kinds] if choices else kinds)


def choices_of(hint: Any) -> tuple[str, ...]:
    """The values of a boolean or a Literal; none for other types."""
    if hint is bool:
        return "true", "false"
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


def option(section: type, field: dataclasses.Field, hint: Any, name: str) -> Any:
    """The type of one setting for tyro.

    A text that is not a value of the setting is passed on unread: `settings.check` refuses it, in
    the same words as in a TOML file.
    """
    spec: Any = tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar(hint),
        instance_from_str=lambda words: parse(section, field.name, words[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [typed(value)],
    )
    default = f"(default: {typed(field.default)})" if field.default != "" else ""
    shown = tyro.conf.arg(
        help=explanations(section)[field.name],
        help_behavior_hint="(default: the decoder's)" if name == "encoder" else default,
    )
    return Annotated[hint, spec, shown, tyro.conf.FlagConversionOff]


def options(section: type, name: str) -> Any:
    """A dict type with the settings of `section`, each of them optional."""
    hints = typing.get_type_hints(section)
    fields = {
        field.name: option(section, field, hints[field.name], name)
        for field in dataclasses.fields(section)
    }
    typed_dict = dict_type(name, fields, total=False)
    typed_dict.__doc__ = ABOUT.get(name) or (section.__doc__ or "").partition("\n")[0]
    return typed_dict


dict_type: Any = TypedDict  # typed as Any, because type checkers accept only literal field names
if TYPE_CHECKING:
    Settings = dict[str, dict[str, Any]]
else:
    SECTIONS = {name: options(section, name) for name, section in sections_of_a_run().items()}
    Settings = Annotated[dict_type("Settings", SECTIONS, total=False), tyro.conf.arg(name="")]


def require_settings(words: Sequence[str]) -> None:
    """Require that each word of the form --SECTION.FIELD names a setting; suggest one otherwise."""
    for word in words:
        if name := re.match(r"--([\w-]+)\.([\w.-]+)", word):
            section, field = (part.replace("-", "_") for part in name.groups())
            require_setting(section, field, name[0])
