"""Values for the constructor parameters of a foreign class, chosen by their names.

Independent of torch and of files.
"""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxgpt.errors import UserError
from jaxgpt.seq2seq_config import ENCODER, AnyConfig, Seq2SeqConfig, field_of

from ..names.config_words import FIELD, VALUES
from ..names.pair_config import side_of, without_side
from .config_objects import (
    ABSENT,
    CONFIGS,
    MEANING,
    NOTHING,
    SIZES,
    OpenConfig,
    config_class,
    described,
    makers_of,
    parameters,
    part_class,
    watched,
)

WAY_OUT = (
    "Say what it lacks with --torch-arg NAME=VALUE, or name a function that takes nothing and "
    "returns the model."
)
# Parts of the names of ids of special tokens, which change no weight; and the ends of such names.
SPECIAL = ("pad", "bos", "sos", "eos", "unk")
IDS = ("idx", "id", "index", "token", "pad")


class Lacking(UserError):
    """Nothing says what the arguments `words` of a class should be."""

    def __init__(
        self, target: Callable[..., Any], words: Sequence[str], part: str, makers: Sequence[str]
    ):
        self.words = tuple(part + word for word in words)
        options = " ".join(f"--torch-arg {word}=VALUE" for word in words)
        maker = f"such as {makers[0]} of the same file" if makers else "without arguments"
        super().__init__(
            f"{described(target)} cannot be built, for nothing says what "
            f"{' and '.join(words)} should be. Say so with {options}, or name a function that "
            f"returns the model, {maker}."
        )


@dataclass
class Answers:
    """Constructor arguments of a class: sizes, and what the file itself records.

    Assumed fields are never passed; otherwise running the class would prove nothing about them.
    """

    config: AnyConfig
    read: Mapping[str, Any]  # fields of `config` that the file shows
    beside: Mapping[str, Any]  # a config in the file or next to it, unchanged
    given: Mapping[str, Any]  # arguments that the user set
    unknown: frozenset[str] = frozenset()  # sizes in `config` that are not known yet
    fitted: Mapping[str, Any] = field(default_factory=dict)  # arguments that shapes have shown
    told: dict[str, Any] = field(default_factory=dict)  # arguments that were passed to the class
    # The defaults of arguments that nothing determines. Only the user can say whether the model was
    # built with these for training.
    defaults: dict[str, Any] = field(default_factory=dict)
    part: str = ""  # the side that is being built as an argument of the class, as a prefix

    def __deepcopy__(self, memo: Any) -> "Answers":
        """The same object: a copied module still reports which defaults it reads."""
        return self

    @property
    def fields(self) -> set[str]:
        """Fields of ModelConfig that were passed to the class, under any names."""
        told = [
            (side_of(word), MEANING.get(without_side(word.lower()), word)) for word in self.told
        ]
        both = isinstance(self.config, Seq2SeqConfig)
        encoder = {f"{ENCODER}{field}" for side, field in told if both and side != "decoder"}
        return encoder | {field for side, field in told if not (both and side == "encoder")}

    @property
    def for_both(self) -> set[str]:
        """Fields that were passed to the class once for both sides of an encoder-decoder."""
        words = [word for word in self.told if side_of(word) is None]
        both = isinstance(self.config, Seq2SeqConfig)
        return {MEANING.get(word.lower(), word) for word in words if both}

    def answer(self, word: str) -> Any:
        """The value for the parameter `word`, or LookupError if nothing determines it."""
        of_part = self.part + word
        word = word if word in self.given and of_part not in self.given else of_part
        self.told[word] = value = self._answer(word, self._field(word))
        return value

    def _field(self, word: str) -> tuple[str, str]:
        """The prefix and the name of the field that `word` means; the prefix is `encoder.` for an
        encoder."""
        if not isinstance(self.config, Seq2SeqConfig):
            return "", MEANING.get(word.lower(), "")
        prefix = ENCODER if side_of(word.lower()) == "encoder" else ""
        return prefix, MEANING.get(without_side(word.lower()), "")

    def _answer(self, word: str, field: tuple[str, str]) -> Any:
        prefix, name = field
        if word in self.given:
            return self.given[word]
        if word in self.fitted:
            return self.fitted[word]
        if name in SIZES and name not in self.unknown:
            return field_of(self.config, prefix + name)
        if "drop" in word.lower():
            return 0.0
        if word.removeprefix(self.part) == "device":
            return "cpu"
        if word in self.beside and "dtype" not in word:
            return self.beside[word]
        biases = {
            field_of(self.config, part)
            for part in ("qkv_bias", "attention_out_bias", "mlp_bias", "norm_bias")
        }
        if word in ("bias", "use_bias") and len(biases) == 1:
            return biases.pop()
        if isinstance(self.read.get(prefix + name), (bool, int, float)) and name not in VALUES:
            return self.read[prefix + name]
        raise KeyError(word)

    def default(self, word: str, value: Any) -> None:
        """Record that the argument `word` has its default `value`, unless its tensors show it."""
        if "dtype" not in word and not word.endswith("bias"):
            self.defaults[word] = value

    @property
    def kept(self) -> str:
        """The arguments that kept their defaults, but for the length of the context, in a list."""
        return ", ".join(
            f"{word} = {value!r}"
            for word, value in self.defaults.items()
            if value != ABSENT and MEANING.get(word.lower()) != "context_length"
        )

    @property
    def caveats(self) -> list[str]:
        """The sentence on the arguments that kept their defaults; none if there are none."""
        if not self.kept:
            return []
        return [
            f"the class was built with its defaults {self.kept}; if it was trained with other "
            "values, the result is wrong: pass those with --torch-arg NAME=VALUE"
        ]

    def build(self, target: Callable[..., Any], namespace: Mapping[str, Any]) -> Any:
        """Call `target`; `namespace` is that of its module, which may define its config class."""
        made, defaults = self._call(target, namespace)
        for word, value in defaults.items():
            self.default(word, value)
        return made

    def _call(
        self, target: Callable[..., Any], namespace: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """The result of calling `target`, and its arguments that kept their defaults."""
        positional, named, lacking, defaults = [], {}, [], {}
        for parameter in parameters(target):
            try:
                value = self._value(parameter, target, namespace)
            except LookupError:
                word = self.part + parameter.name
                if parameter.default is not NOTHING:
                    defaults[word] = parameter.default
                    continue
                if not _is_special(parameter.name):
                    lacking.append(parameter.name)
                    continue
                self.told[word] = value = 0
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(value)
            else:
                named[parameter.name] = value
        if lacking:
            raise Lacking(target, lacking, self.part, makers_of(target, namespace))
        return target(*positional, **named), defaults

    def _value(
        self, parameter: inspect.Parameter, target: Any, namespace: Mapping[str, Any]
    ) -> Any:
        if parameter.name not in CONFIGS or parameter.name in self.given:
            with contextlib.suppress(LookupError):
                return self.answer(parameter.name)
        cls = config_class(parameter, target, namespace)
        if cls:
            return self._filled(cls, namespace)
        if parameter.name in CONFIGS or parameter.annotation in (dict, "dict"):
            base = parameter.default if isinstance(parameter.default, dict) else {}
            return OpenConfig(self.answer, self.default, base)
        side = side_of(f"{parameter.name}_")
        cls = part_class(parameter, namespace)
        if side is None or cls is None or self.part:
            raise LookupError(parameter.name)
        part = dataclasses.replace(self, part=f"{side}_")
        made, defaults = part._call(cls, namespace)
        for word, value in defaults.items():
            self.default(word, value)
        return made

    def _is_written_for(self, cls: type) -> bool:
        """Whether a config in the file or next to it is one of the transformers class `cls`.

        That class then opens it, as it knows the words of each of its releases.
        """
        kind = getattr(cls, "model_type", None)
        ours = cls.__module__.partition(".")[0] == "transformers"
        return ours and not self.given and kind == self.beside.get("model_type", "")

    def _filled(self, cls: type, namespace: Mapping[str, Any]) -> Any:
        if self._is_written_for(cls):
            self.told |= {word: value for word, value in self.beside.items() if word in FIELD}
            words = {word: value for word, value in self.beside.items() if "dtype" not in word}
            return cls.from_dict(words)  # type: ignore[attr-defined]
        config, defaults = self._call(cls, namespace)
        asked = parameters(cls, all_kinds=True)
        # Without named parameters, the config gets its fields as attributes.
        if not asked or asked[-1].kind is inspect.Parameter.VAR_KEYWORD:
            for word in FIELD:
                with contextlib.suppress(LookupError):
                    setattr(config, word, self.answer(word))
        if cls.__module__.partition(".")[0] == "transformers":  # its settings have known names
            for word, value in defaults.items():
                if word in FIELD:
                    self.default(word, value)
        else:
            watched(config, defaults, self.default)
        return config


def _is_special(word: str) -> bool:
    """Whether `word` is the id of a special token, such as src_pad_idx or pad."""
    word = word.lower()
    return word.endswith(IDS) and any(part in word for part in SPECIAL)
