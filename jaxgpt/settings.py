"""Settings in TOML and from the command line: read, checked, and made into dataclasses."""

import contextlib
import dataclasses
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jaxgpt.config import Config
from jaxgpt.errors import UserError, in_a_row, instead_of, require
from jaxgpt.presets import config_file

Sections = Mapping[str, Mapping[str, Any]]
WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    types.NoneType: "none",
}


def sections_of_a_run() -> dict[str, Any]:
    """The dataclass of each section of a run's settings."""
    return {name: _dataclass(hint) for name, hint in typing.get_type_hints(Config).items()}


def _dataclass(hint: Any) -> Any:
    """The dataclass in `hint`, which may also allow None; None if there is no dataclass."""
    for kind in typing.get_args(hint) or (hint,):
        if dataclasses.is_dataclass(kind):
            return kind
    return None


def build_run(sections: Sections, where: str) -> Config:
    """The run that `sections` describe; what [encoder] leaves out is as in the decoder."""
    if "encoder" in sections:
        model = sections.get("model", {})
        encoder = {**model, "cross_attention": False, **sections["encoder"]}
        sections = {
            **sections,
            "model": {**model, "cross_attention": True},
            "encoder": encoder,
        }
    config: Config = build(Config, sections, where)
    return config


def build(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """Build the dataclass `cls` from plain `values`, a nested one from a nested dict.

    `where` names the origin of the values in errors.
    """
    check(cls, values, where)
    hints = typing.get_type_hints(cls)
    sections = {
        name: build(_dataclass(hint), values.get(name, {}), f"{where} [{name}]")
        for name, hint in hints.items()
        if dataclasses.is_dataclass(hint) or (_dataclass(hint) and name in values)
    }
    try:
        return cls(**{**values, **sections})
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def check(cls: type, values: Mapping[str, Any], where: str) -> None:
    """Require that `values` are fields of `cls` with values of their types.

    The dataclass itself checks which values are possible together.
    """
    hints = typing.get_type_hints(cls)
    for name, value in values.items():
        _require_field(hints, name, where)
        if _dataclass(hints[name]):
            require(
                isinstance(value, dict),
                f"{where}: {name} is a section, written [{name}], but got {value!r}.",
            )
        else:
            require(
                fits(value, hints[name]),
                f"{where}: {name} takes {describe(hints[name])}, but got {value!r}.",
            )


def require_setting(section: str, field: str, where: str) -> None:
    """Require that a run has the setting `field` in `section`; suggest another one otherwise."""
    sections = sections_of_a_run()
    _require_field(sections, section, where)
    _require_field(typing.get_type_hints(sections[section]), field, where)


def _require_field(hints: Mapping[str, Any], name: str, where: str) -> None:
    """Require that `name` is one of `hints`; `where` begins the error."""
    if name not in hints:
        shown = in_a_row([name])  # a name in a file may contain terminal commands
        raise UserError(f"{where}: there is no setting {shown}. {instead_of(name, hints)}")


def parse(cls: type, name: str, text: str) -> Any:
    """`text` parsed as a value of the field `name` of `cls`, or `text` itself if that is
    impossible."""
    hint = typing.get_type_hints(cls).get(name, str)
    readings = [text]
    for spelled in (text, text.lower()):  # accept True as well as true
        with contextlib.suppress(ValueError, RecursionError):  # also a number of 5000 digits
            readings.append(tomllib.loads(f"value = {spelled}")["value"])
    with contextlib.suppress(ValueError, RecursionError):
        readings.append(json.loads(text.replace("none", "null").replace("None", "null")))
    return next((reading for reading in readings if fits(reading, hint)), text)


def typed(value: Any) -> str:
    """The text that `parse` reads as `value`."""
    if isinstance(value, (list, dict)):
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def read_settings(path: Path | None, options: Sections) -> dict[str, dict[str, Any]]:
    """The sections of a TOML file or a preset, if any, with those of the command line over them.

    Settings that neither of them states are left out.
    """
    sections = _read_toml(path) if path else {}
    hints = sections_of_a_run()
    for section, fields in options.items():
        for name, value in fields.items():
            check(hints[section], {name: value}, f"--{section}.{name}")
            sections.setdefault(section, {})[name] = value
    return sections


def _read_toml(path: Path) -> dict[str, dict[str, Any]]:
    """The sections of the config file or preset that `path` names, checked."""
    try:
        settings = tomllib.loads(config_file(path).read_text(encoding="utf-8"))
    except UserError:  # a ValueError too
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    except ValueError as error:  # TOMLDecodeError, or Python's own for a number of 5000 digits
        raise UserError(f"{path} is not TOML: {error}.") from None
    except RecursionError:
        raise UserError(
            f"{path} is not a config of a run: brackets are nested too deep in it."
        ) from None
    check_sections(settings, str(path))
    return settings


def check_sections(settings: Sections, where: str) -> None:
    """Require that `settings` has only sections and fields of a run, with values of the right
    types."""
    sections = sections_of_a_run()
    check(Config, settings, where)
    for section, fields in settings.items():
        check(sections[section], fields, f"{where} [{section}]")


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` is of the type `hint` by the rules of TOML: true is no number, but 1 is a
    float."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, arg) for arg in args)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin is list:
        return isinstance(value, list) and all(fits(each, args[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict)
    if value is None or hint is types.NoneType:
        return value is None and hint is types.NoneType
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    if hint is float:
        return isinstance(value, (int, float)) and math.isfinite(value)
    return isinstance(value, hint)


def describe(hint: Any) -> str:
    """The values of the type `hint`, for an error message."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(repr(arg) for arg in args)
    if origin is list:
        return f"a list, each entry {describe(args[0])}"
    if origin is dict:
        return "a table"
    if args:
        return " or ".join(describe(arg) for arg in args)
    return WORDS[hint]
