"""Config objects for foreign classes, and the signatures of those classes.

Independent of torch and of files.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jaxgpt.config import ModelConfig

from ..names.config_words import FIELD
from ..rows.fields import FIELDS

# Names in addition to those in configs. Guesses do no harm, as a model of a wrong size fails to
# load.
GUESSES = {
    "vocab_size": "vocab vocabulary_size vocab_len num_tokens n_tokens ntoken",
    "context_length": "sequence_length max_length maxlen max_sequence_length max_position "
    "max_positions",
    "model_dim": "dim embedding_size width",
    "num_blocks": "depth layers num_transformer_blocks num_decoder_layers",
    "mlp_dim": "hidden_ff d_ffn intermediate_size feedforward_dim",
}
MEANING = {
    **{word: name for name, words in GUESSES.items() for word in words.split()},
    **{name: name for name in ModelConfig.__dataclass_fields__},
    **FIELD,
}
SIZES = frozenset(FIELDS.values())
CONFIGS = (
    "config",
    "cfg",
    "conf",
    "args",
    "hparams",
    "hp",
    "params",
    "opt",
    "c",
    "model_args",
    "model_config",
)
ENDINGS = ("config", "args", "params", "settings")
NOTHING = inspect.Parameter.empty
ABSENT = "nothing"  # the default of a setting without a default


class OpenConfig(dict):
    """A substitute config whose values, read as items or attributes, come from `answer`."""

    def __init__(
        self,
        answer: Callable[[str], Any],
        defaulted: Callable[[str, Any], None],
        base: Mapping[str, Any],
    ):
        super().__init__(base)
        self._answer, self._defaulted = answer, defaulted
        for word, default in base.items():
            try:
                self[word] = answer(word)
            except LookupError:
                defaulted(word, default)

    def __missing__(self, word: str) -> Any:
        return self._answer(word)

    def __contains__(self, word: object) -> bool:
        return self.get(word, ABSENT) is not ABSENT

    def get(self, word: Any, default: Any = None) -> Any:
        try:
            return self[word]
        except LookupError:
            self._defaulted(word, default)
            return default

    def __getattr__(self, word: str) -> Any:
        if word.startswith("_"):
            raise AttributeError(word)
        try:
            return self[word]
        except LookupError:
            self._defaulted(word, ABSENT)
            raise AttributeError(f"its config has no {word}") from None


def watched(config: Any, defaults: Mapping[str, Any], read: Callable[[str, Any], None]) -> None:
    """Make `config` call `read` with name and value of each of `defaults` that is read from it.

    This matters because configs also have settings that no model reads, such as a learning rate.
    """
    original = type(config)

    class Watched(original):  # type: ignore[misc, valid-type]
        def __getattribute__(self, name: str) -> Any:
            if name in defaults:
                read(name, defaults[name])
            elif name == "__dict__":  # reads all of them, as `vars(config)` does
                for word, value in defaults.items():
                    read(word, value)
            return super().__getattribute__(name)

    for name in ("__name__", "__qualname__", "__module__"):
        setattr(Watched, name, getattr(original, name))
    try:
        object.__setattr__(config, "__class__", Watched)
    except TypeError:  # a class with slots cannot be replaced, so any setting may be read
        for word, value in defaults.items():
            read(word, value)


def parameters(target: Callable[..., Any], all_kinds: bool = False) -> list[inspect.Parameter]:
    """Parameters of `target`, without *args and **kwargs unless `all_kinds` is true."""
    try:
        all_parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):  # some builtins have no signature
        return []
    loose = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [parameter for parameter in all_parameters if all_kinds or parameter.kind not in loose]


def described(target: Callable[..., Any]) -> str:
    """The name and signature of `target`."""
    name = getattr(target, "__qualname__", type(target).__name__)
    return (
        f"{name}{inspect.signature(target)}" if parameters(target, all_kinds=True) else f"{name}()"
    )


def config_class(
    parameter: inspect.Parameter, target: Any, namespace: Mapping[str, Any]
) -> type | None:
    hint, default = parameter.annotation, parameter.default
    hint = namespace.get(hint) if isinstance(hint, str) else hint
    for candidate in (hint, type(default), getattr(target, "config_class", None)):
        if isinstance(candidate, type) and sizes_known(candidate):
            return candidate
    if (
        parameter.name not in CONFIGS
        or parameter.annotation in (dict, "dict")
        or isinstance(default, dict)
    ):
        return None
    classes = [
        candidate
        for name, candidate in namespace.items()
        if isinstance(candidate, type) and name.lower().endswith(ENDINGS)
    ]
    # A trainer's config may have one size too.
    models = [candidate for candidate in classes if sizes_known(candidate) > 1]
    own = f"{getattr(target, '__name__', '')}Config"
    return max(
        models,
        key=lambda candidate: (sizes_known(candidate), candidate.__name__ == own),
        default=None,
    )


def sizes_known(cls: type) -> int:
    if issubclass(cls, dict):
        return 0
    words = {parameter.name for parameter in parameters(cls)} | set(dir(cls))
    words |= (
        {item.name for item in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    )
    return len({MEANING.get(word.lower()) for word in words} & SIZES)


def part_class(parameter: inspect.Parameter, namespace: Mapping[str, Any]) -> type | None:
    """The class of the module to pass as `parameter`: its annotation, or one of its name."""
    hint = parameter.annotation
    named = (value for name, value in namespace.items() if name.lower() == parameter.name.lower())
    for candidate in (namespace.get(hint) if isinstance(hint, str) else hint, *named):
        if isinstance(candidate, type) and hasattr(candidate, "state_dict"):
            return candidate
    return None


def makers_of(target: Any, namespace: Mapping[str, Any]) -> list[str]:
    """The functions in `namespace` that return an object of the class `target`, by their code."""
    own = getattr(target, "__name__", "")
    made = {name: value for name, value in namespace.items() if inspect.isfunction(value)}
    return [
        name
        for name, value in made.items()
        if value is not target and own and own in value.__code__.co_names
    ]
