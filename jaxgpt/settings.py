"""From what people write, in TOML or on the command line, to the dataclasses of `config`, with errors they can use."""

import contextlib
import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxgpt.config import Config
from jaxgpt.errors import UserError, instead_of, require
from jaxgpt.fields import explanations


def build(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """A frozen dataclass from plain values, nested ones from nested dicts; `where` names their origin in errors."""
    check(cls, values, where)
    hints = typing.get_type_hints(cls)
    sections = {
        name: build(hint, values.get(name, {}), f"{where} [{name}]")
        for name, hint in hints.items()
        if isinstance(hint, type) and dataclasses.is_dataclass(hint)
    }
    try:
        return cls(**{**values, **sections})
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def check(cls: type, values: Mapping[str, Any], where: str) -> None:
    """Names and types alone: values that are possible only together are the dataclass's own matter."""
    hints = typing.get_type_hints(cls)
    for name, value in values.items():
        if name not in hints:
            raise UserError(f"{where}: there is no setting {name}. {instead_of(name, hints)}")
        if dataclasses.is_dataclass(hints[name]):
            require(
                isinstance(value, dict),
                f"{where}: {name} is a section, written [{name}], but got {value!r}.",
            )
        else:
            require(
                fits(value, hints[name]),
                f"{where}: {name} takes {describe(hints[name])}, but got {value!r}.",
            )


def parse(cls: type, name: str, text: str) -> Any:
    """What somebody typed for a field: the first reading of it that the field takes, else the text itself."""
    hint = typing.get_type_hints(cls).get(name, str)
    readings = [text]
    for spelled in (text, text.lower()):  # True and true are both meant
        with contextlib.suppress(tomllib.TOMLDecodeError, RecursionError):
            readings.append(tomllib.loads(f"value = {spelled}")["value"])
    return next((reading for reading in readings if fits(reading, hint)), text)


def typed(value: Any) -> str:
    """What `parse` reads as this value."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_settings(path: Path | None, assignments: Sequence[str]) -> dict[str, Any]:
    """Sections of a TOML file, if any, overridden by assignments such as `train.batch-size=8`."""
    settings = _read_toml(path) if path else {}
    sections = typing.get_type_hints(Config)
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        section, _, field = name.replace("-", "_").partition(".")
        check(Config, {section: {}}, f"--{name}")
        value = {field: parse(sections[section], field, text)}
        check(sections[section], value, f"--{name}")
        settings.setdefault(section, {}).update(value)
    return settings


def _read_toml(path: Path) -> dict[str, Any]:
    """The sections of a config file, whose names and types are those of `Config`."""
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not TOML: {error}.") from None
    except RecursionError:
        raise UserError(
            f"{path} is not TOML of settings: brackets are nested too deep in it."
        ) from None
    check_sections(settings, str(path))
    return settings


def check_sections(settings: Mapping[str, Any], where: str) -> None:
    """Require that the sections and fields of a run are known, and their values of the right types."""
    sections = typing.get_type_hints(Config)
    check(Config, settings, where)
    for section, fields in settings.items():
        check(sections[section], fields, f"{where} [{section}]")


def listing() -> str:
    """Every setting as it is typed, with its default, the values that it takes, and its sentence."""
    lines = []
    for section, cls in typing.get_type_hints(Config).items():
        hints, sentences = typing.get_type_hints(cls), explanations(cls)
        for field in dataclasses.fields(cls):
            name = f"--{section}.{field.name} {field.default!r}"
            lines += [name.ljust(44) + describe(hints[field.name]), f"    {sentences[field.name]}"]
    return "\n".join(lines)


def fits(value: Any, hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, arg) for arg in args)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    if hint is float:
        return isinstance(value, (int, float)) and math.isfinite(value)
    return isinstance(value, hint)


def describe(hint: Any) -> str:
    args = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return " or ".join(repr(arg) for arg in args)
    if args:
        return " or ".join(describe(arg) for arg in args)
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[hint]
