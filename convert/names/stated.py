"""The fields of ModelConfig that the configs in a checkpoint file, or next to it, state."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from jaxgpt.errors import UserError

from ..rows.dialect import Dialect
from .class_words import is_of, read
from .config_words import FIELD, Word, fits, meaning, words_in

CLASS = "the class"  # prefix of a source that is only the default of a class
NOTHING: Mapping[str, Any] = {}


class Statement(NamedTuple):
    """The value of a field of ModelConfig, and the place that states it, for errors."""

    value: Any
    where: str

    @property
    def by_default(self) -> bool:
        """Whether no config states the value, but only the class that one of them names."""
        return self.where.startswith(CLASS)


def stated_fields(
    configs: Mapping[str, Mapping[str, Any]],
    dialect: Dialect,
    path: object,
    given: Collection[str] = (),
    shown: Mapping[str, Any] = NOTHING,
) -> dict[str, Statement]:
    """The fields of ModelConfig that `configs`, those in the file and next to it by name, state.

    They may contradict each other in the fields of `given`, which the caller sets anyway, and in
    the length of the context, where one of them agrees with `shown`, the fields that tensors show.

    Example: {"config.json": {"model_type": "gpt2", "n_head": 4}} states that num_heads is 4, and
    what model_type = 'gpt2' implies for the dialect gpt2, such as the activation gelu_tanh. If it
    also had "n_layer": "x", it would be refused; in a config of no known class that is ignored.
    """
    _require_known_class(configs, dialect, path)
    others = {where: config for where, config in configs.items() if not is_of(dialect, config)}
    words = list(words_in(others))
    stated = _implied_by_class(words, dialect)
    for where, key, value in words:
        field = FIELD.get(key, "")
        if not field or value in dialect.says.get(key, {}) or not fits(field, value):
            continue
        try:
            new = meaning(field, value, f"{path}: {where} says {key} = {value!r}")
        except UserError as error:
            raise UserError(
                f"{error}. If that config does not belong to the file, leave it out with "
                "--ignore-config."
            ) from None
        _add(stated, field, Statement(new, f"{where}: {key} = {value!r}"), path, given, shown)
    for where in configs.keys() - others.keys():
        for field, statement in _of_class(configs[where], dialect, where, path).items():
            _add(stated, field, statement, path, given, shown)
    return stated


def _add(
    stated: dict[str, Statement],
    field: str,
    new: Statement,
    path: object,
    given: Collection[str],
    shown: Mapping[str, Any],
) -> None:
    """Add `new` to `stated`, or raise UserError if the two contradict each other."""
    old = stated.get(field)
    if old is None or old.by_default or old.value == new.value:
        stated[field] = new
    elif field == "context_length" and shown.get(field) in (old.value, new.value):
        stated[field] = old if old.value == shown[field] else new
    elif not new.by_default and field not in given and not _overrides(old, field):
        raise UserError(f"{path}: {old.where}, but {new.where}. Choose with --set {field}=VALUE.")


def _of_class(
    config: Mapping[str, Any], dialect: Dialect, where: str, path: object
) -> dict[str, Statement]:
    """The fields that a config of the dialect's Hugging Face class states or its class implies."""
    try:
        fields = read(dialect, config)
    except UserError as error:
        raise UserError(
            f"{path}: {where} cannot be used: {error}. If it does not belong to the file, leave it "
            "out with --ignore-config."
        ) from None
    implied = f"{CLASS} of {where}, model_type = {config['model_type']!r},"
    return {
        field: Statement(
            value,
            f"{where}: {', '.join(f'{word} = {config[word]!r}' for word in words)}"
            if words
            else implied,
        )
        for field, (value, words) in fields.items()
    }


def _implied_by_class(words: Iterable[Word], dialect: Dialect) -> dict[str, Statement]:
    """The fields that a class named in a config implies; the first place that names one counts."""
    implied: dict[str, Statement] = {}
    for where, key, value in words:
        for field, meant in dialect.says.get(key, {}).get(value, {}).items():
            place = f"{CLASS} of {where}, {key} = {value!r},"
            implied.setdefault(field, Statement(meant, place))
    return implied


def _overrides(statement: Statement, field: str) -> bool:
    """Whether `statement` overrides later contradicting ones; otherwise they are an error.

    nanoGPT's model_args are those of the model, and its trainer's defaults may be others. A dropout
    may have changed between runs.
    """
    return "model_args" in statement.where or field == "dropout"


def _require_known_class(
    configs: Mapping[str, Mapping[str, Any]], dialect: Dialect, path: object
) -> None:
    """Refuse a Hugging Face config of another class, whose tensors may have the same names."""
    for where, config in configs.items():
        kind = config.get("model_type")
        if (
            "architectures" in config
            and isinstance(kind, str)
            and kind not in dialect.says.get("model_type", {})
        ):
            raise UserError(
                f"{path}: {where} says model_type = {kind!r}, which is another class than "
                f"{dialect.name}. If that config does not belong to the file, leave it out with "
                "--ignore-config."
            )
