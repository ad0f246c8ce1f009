"""The Hugging Face class that opens folders of a dialect, and the words of its config.json."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from jaxgpt.config import ModelConfig


class Idiom(Protocol):
    """Words of a config.json that have a meaning only together, or another one than elsewhere."""

    @property
    def words(self) -> tuple[str, ...]:
        """The words that `read` looks at, for messages."""
        ...

    def read(self, config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of ModelConfig that `config` states, with the class's defaults for the rest.

        `fields` are those that are known already, such as the sizes.
        """
        ...

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The words for the model of `config`.

        If `read` makes other fields of them, the class has no words for the model.
        """
        ...


@dataclass(frozen=True)
class Hub:
    """The Hugging Face class that opens a folder of such tensors, and its words in config.json."""

    architecture: str
    words: str  # words that each mean one field of ModelConfig, by `config_words.SYNONYMS`
    repeated: Mapping[str, str] = field(default_factory=dict)  # word -> the word whose value it has
    idioms: tuple[Idiom, ...] = ()  # in the order in which they are read
    refused: Mapping[str, str] = field(default_factory=dict)  # word -> what a model with it does
    lacks: str = ""  # spellings that other classes know, and this one does not
    even: bool = False  # whether the class requires that num_heads divides model_dim
