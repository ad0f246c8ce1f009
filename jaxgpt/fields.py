"""Fields of a dataclass of settings, and what `help` shows of a class."""

import dataclasses
import functools
import inspect
import typing
from typing import Any, Literal, TypeVar

from jaxgpt.errors import UserError, instead_of, require

Section = TypeVar("Section")


def setting(default: Any, explanation: str) -> Any:
    """A dataclass field with `default`, and the sentence that `help` and the command line show."""
    return dataclasses.field(default=default, metadata={"explanation": explanation})


class FrozenDict(dict):
    """A dict that is never changed, so that it can be hashed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(sorted((key, str(value)) for key, value in self.items())))


class FrozenList(list):
    """A list that is never changed, so that it can be hashed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self))


def frozen(value: Any) -> Any:
    """`value` with its lists and dicts frozen."""
    if isinstance(value, (list, tuple)):
        return FrozenList(map(frozen, value))
    return FrozenDict(value) if isinstance(value, dict) else value


def require_choices(section: Any) -> None:
    """Require that each text in a field of `section` declared as a Literal is one of its values."""
    for name, hint in type(section).__annotations__.items():
        value, alternatives = getattr(section, name), typing.get_args(hint)
        literal = hint if typing.get_origin(hint) is Literal else None
        for alternative in alternatives:
            literal = alternative if typing.get_origin(alternative) is Literal else literal
        choices = typing.get_args(literal)
        only = hint is literal or (isinstance(value, str) and bool not in alternatives)
        if choices and only:
            shown = " or ".join(map(repr, choices))
            require(value in choices, f"{name} takes {shown}, but got {value!r}.")


def explanations(section: type) -> dict[str, str]:
    """The sentence that explains each field of `section`, by the field's name."""
    return {field.name: field.metadata["explanation"] for field in dataclasses.fields(section)}


def explained(section: type[Section]) -> type[Section]:
    """Add the explanations of its fields to the docstring of the dataclass `section`."""
    lines = [f"    {name}: {sentence}" for name, sentence in explanations(section).items()]
    section.__doc__ = "\n".join([section.__doc__ or "", "", "Fields:", *lines])
    return section


def suggesting(section: type[Section]) -> type[Section]:
    """Make the constructor of `section` suggest a field when it gets an unknown keyword."""
    construct = section.__init__

    @functools.wraps(construct)
    def checked(self: Section, *values: Any, **fields: Any) -> None:
        names = [field.name for field in dataclasses.fields(section)]  # type: ignore[arg-type]
        for name in fields:
            if name not in names:
                advice = instead_of(name, names)
                raise UserError(f"{section.__name__} has no field {name}. {advice}")
        construct(self, *values, **fields)

    section.__init__ = checked  # type: ignore
    return section


def signed(cls: type[Section]) -> type[Section]:
    """Show the arguments of `cls`, which a metaclass hides, in `help` and completion."""
    own = inspect.signature(cls.__init__)
    parameters = list(own.parameters.values())[1:]
    cls.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    return cls
