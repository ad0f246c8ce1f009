"""Values for the constructor parameters of a foreign class, chosen by their names.

Independent of torch and of files.
"""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError

from ..names.config_words import FIELD, VALUES
from ..rows.dialect import FIELDS

# Names besides those in configs. Guesses do no harm: a model of the wrong size fails to load.
GUESSES = {
    "vocab_size": "vocab vocabulary_size vocab_len num_tokens n_tokens ntoken",
    "context_length": "sequence_length max_length maxlen max_sequence_length max_position "
    "max_positions",
    "model_dim": "dim embedding_size width",
    "num_blocks": "depth layers num_transformer_blocks num_decoder_layers",
    "num_heads": "n_attention_heads attention_heads",
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
WAY_OUT = (
    "Say what it lacks with --torch-arg NAME=VALUE, or name a function that takes nothing and "
    "returns the model."
)
NOTHING = inspect.Parameter.empty


@dataclass
class Answers:
    """Constructor arguments of a class: sizes, and what the file itself records.

    Assumed fields are never passed, or running the class would prove nothing about them.
    """

    config: ModelConfig
    read: Mapping[str, Any]  # fields of `config` that the file shows
    beside: Mapping[str, Any]  # a config in the file or next to it, as written
    given: Mapping[str, Any]  # arguments that the user set
    told: dict[str, Any] = field(default_factory=dict)  # arguments that the class was passed

    @property
    def fields(self) -> set[str]:
        """Fields of ModelConfig that the class was passed, under whatever names."""
        return {MEANING.get(word.lower(), word) for word in self.told}

    def answer(self, word: str) -> Any:
        """The value for the parameter `word`, or LookupError if nothing determines it."""
        self.told[word] = value = self._answer(word, MEANING.get(word.lower(), ""))
        return value

    def _answer(self, word: str, name: str) -> Any:
        if word in self.given:
            return self.given[word]
        if name in SIZES:
            return getattr(self.config, name)
        if "drop" in word.lower():
            return 0.0
        if word == "device":
            return "cpu"
        if word in self.beside and "dtype" not in word:
            return self.beside[word]
        biases = {
            getattr(self.config, part)
            for part in ("qkv_bias", "attention_out_bias", "mlp_bias", "norm_bias")
        }
        if word in ("bias", "use_bias") and len(biases) == 1:
            return biases.pop()
        if isinstance(self.read.get(name), (bool, int, float)) and name not in VALUES:
            return self.read[name]
        raise KeyError(word)

    def build(self, target: Callable[..., Any], namespace: Mapping[str, Any]) -> Any:
        """Call `target`; `namespace` is that of its module, which may define its config class."""
        positional, named, lacking = [], {}, []
        for parameter in parameters(target):
            try:
                value = self._value(parameter, target, namespace)
            except LookupError:
                if parameter.default is NOTHING:
                    lacking.append(parameter.name)
                continue
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(value)
            else:
                named[parameter.name] = value
        if lacking:
            raise UserError(
                f"{described(target)} cannot be built, for nothing says what "
                f"{' and '.join(lacking)} should be. {WAY_OUT}"
            )
        return target(*positional, **named)

    def _value(
        self, parameter: inspect.Parameter, target: Any, namespace: Mapping[str, Any]
    ) -> Any:
        if parameter.name not in CONFIGS or parameter.name in self.given:
            with contextlib.suppress(LookupError):
                return self.answer(parameter.name)
        cls = _config_class(parameter, target, namespace)
        if cls:
            return self._filled(cls, namespace)
        if parameter.name in CONFIGS or parameter.annotation in (dict, "dict"):
            base = parameter.default if isinstance(parameter.default, dict) else {}
            return OpenConfig(self.answer, base)
        raise LookupError(parameter.name)

    def _filled(self, cls: type, namespace: Mapping[str, Any]) -> Any:
        config = self.build(cls, namespace)
        asked = parameters(cls, all_kinds=True)
        # Without named parameters, the config gets its fields as attributes.
        if not asked or asked[-1].kind is inspect.Parameter.VAR_KEYWORD:
            for word in FIELD:
                with contextlib.suppress(LookupError):
                    setattr(config, word, self.answer(word))
        return config


class OpenConfig(dict):
    """A stand-in config whose values, read as items or attributes, come from `answer`."""

    def __init__(self, answer: Callable[[str], Any], base: Mapping[str, Any]):
        super().__init__(base)
        self._answer = answer
        for word in base:
            with contextlib.suppress(LookupError):
                self[word] = answer(word)

    def __missing__(self, word: str) -> Any:
        return self._answer(word)

    def __contains__(self, word: object) -> bool:
        return self.get(word, self) is not self

    def get(self, word: Any, default: Any = None) -> Any:
        try:
            return self[word]
        except LookupError:
            return default

    def __getattr__(self, word: str) -> Any:
        if word.startswith("_"):
            raise AttributeError(word)
        try:
            return self[word]
        except LookupError:
            raise AttributeError(f"its config has no {word}") from None


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


def _config_class(
    parameter: inspect.Parameter, target: Any, namespace: Mapping[str, Any]
) -> type | None:
    hint, default = parameter.annotation, parameter.default
    hint = namespace.get(hint) if isinstance(hint, str) else hint
    for candidate in (hint, type(default), getattr(target, "config_class", None)):
        if isinstance(candidate, type) and _sizes_known(candidate):
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
    models = [candidate for candidate in classes if _sizes_known(candidate) > 1]
    own = f"{getattr(target, '__name__', '')}Config"
    return max(
        models,
        key=lambda candidate: (_sizes_known(candidate), candidate.__name__ == own),
        default=None,
    )


def _sizes_known(cls: type) -> int:
    if issubclass(cls, dict):
        return 0
    words = {parameter.name for parameter in parameters(cls)} | set(dir(cls))
    words |= (
        {item.name for item in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    )
    return len({MEANING.get(word.lower()) for word in words} & SIZES)
