"""How a field of a section is declared: its default beside the sentence that explains it. Knows no section."""

import dataclasses
from typing import Any, TypeVar

Section = TypeVar("Section")


def setting(default: Any, explanation: str) -> Any:
    """A dataclass field with `default`, and the sentence that `help` and the command line show."""
    return dataclasses.field(default=default, metadata={"explanation": explanation})


def explanations(section: type) -> dict[str, str]:
    """The sentence that explains each field of `section`, by the field's name."""
    return {field.name: field.metadata["explanation"] for field in dataclasses.fields(section)}


def explained(section: type[Section]) -> type[Section]:
    """Add the explanations of its fields to the docstring of the dataclass `section`."""
    lines = [f"    {name}: {sentence}" for name, sentence in explanations(section).items()]
    section.__doc__ = "\n".join([section.__doc__ or "", "", "Fields:", *lines])
    return section
