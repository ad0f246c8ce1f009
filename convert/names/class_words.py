"""Reads the config.json of a Hugging Face class by the table of its dialect."""

from collections.abc import Mapping
from typing import Any

from jaxgpt.errors import UserError

from ..rows.dialect import Dialect
from .config_words import FIELD, fits, is_plain, meaning

Words = tuple[str, ...]  # those of a config that state a field; () if only the class implies it
NULLABLE = ("logit_softcap", "attention_softcap")
DIVIDES = ("num_heads", "num_kv_heads")


def is_of(dialect: Dialect, config: Mapping[str, Any]) -> bool:
    """Whether `config` is of the Hugging Face class that opens folders of `dialect`."""
    kind = config.get("model_type")
    known = dialect.says.get("model_type", {})
    return dialect.hub is not None and isinstance(kind, str) and kind in known


def read(dialect: Dialect, config: Mapping[str, Any]) -> dict[str, tuple[Any, Words]]:
    """Each field that `config` states or its class implies, with the words that state it."""
    hub = dialect.hub
    assert hub is not None
    for word, does in hub.refused.items():
        if config.get(word):
            raise UserError(
                f"{word} = {config[word]!r}: the model {does}, which has no counterpart here"
            )
    implied = dialect.says["model_type"][config["model_type"]]
    fields: dict[str, tuple[Any, Words]] = {field: (value, ()) for field, value in implied.items()}
    for word in hub.words.split():
        if word in config:
            stated = _stated(dialect, word, config[word])
            fields |= {field: (value, (word,)) for field, value in stated.items()}
    for idiom in hub.idioms:
        stated = idiom.read(config, {field: value for field, (value, _) in fields.items()})
        present = tuple(word for word in idiom.words if config.get(word) is not None)
        for field, value in stated.items():
            fields[field] = value, tuple(dict.fromkeys((*_words_of(fields, field), *present)))
    _require_divisible(fields)
    return fields


def _words_of(fields: Mapping[str, tuple[Any, Words]], field: str) -> Words:
    return fields[field][1] if field in fields else ()


def _stated(dialect: Dialect, word: str, value: Any) -> Mapping[str, Any]:
    """The fields that the plain `word` states with `value`; none if it is null."""
    field = FIELD.get(word, "")
    if value is None:
        return {field: None} if field in NULLABLE else {}
    own = dialect.says.get(word, {})
    if is_plain(value) and value in own:
        return own[value]
    if not field:
        return {}
    if not fits(field, value):
        raise UserError(f"{word} = {value!r} is impossible for {field}")
    return {field: meaning(field, value, f"{word} = {value!r}")}


def _require_divisible(fields: Mapping[str, tuple[Any, Words]]) -> None:
    """Require that the key heads divide the heads, so that no later error blames the tensors."""
    if all(field in fields for field in DIVIDES):
        (heads, _), (kv_heads, words) = (fields[field] for field in DIVIDES)
        if heads % kv_heads:
            raise UserError(
                f"{kv_heads} key and value heads ({', '.join(words)}) do not divide {heads} heads"
            )
