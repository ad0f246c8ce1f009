"""Translates the configs in a checkpoint file, or alongside it, to fields of ModelConfig."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from jaxgpt.errors import UserError

from ..rows.dialect import Dialect

SYNONYMS = {
    "vocab_size": "vocab_size n_vocab",
    "context_length": "block_size context_length context_size ctx ctx_len max_len max_seq "
    "max_seq_len max_seq_length seq_length seq_len n_positions n_ctx max_position_embeddings "
    "context_window",
    "model_dim": "n_embd n_embed n_emb d_model embed_dim embedding_dim model_dim emb_dim "
    "dim_embedding emb_size embed_size hidden_size",
    "num_blocks": "n_layer num_layers num_blocks n_layers n_blocks num_hidden_layers",
    "num_heads": "n_head num_heads n_heads heads nhead num_attention_heads",
    "head_dim": "head_dim head_size",
    "mlp_dim": "n_inner d_ff ff_dim ffn_dim dim_feedforward mlp_dim ff_hidden",
    "dropout": "dropout dropout_rate drop_rate resid_pdrop",
    "norm_eps": "layer_norm_epsilon layer_norm_eps norm_eps",
    "qkv_bias": "qkv_bias",
    "tied": "tie_word_embeddings tie_weights weight_tying",
    "attention_scale_by_layer": "scale_attn_by_inverse_layer_idx",
    "activation": "activation_function activation act afn",
    "attention_scale": "scale_attn_weights",
    "norm": "norm_first do_layer_norm_before",
}
FIELD = {word: name for name, words in SYNONYMS.items() for word in words.split()}
VALUES: dict[str, dict[Any, Any]] = {
    "activation": {
        "relu": "relu",
        "gelu": "gelu",
        "gelu_python": "gelu",
        **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_tanh"), "gelu_tanh"),
    },
    "attention_scale": {True: "head_dim", False: "none"},
    "norm": {True: "pre", False: "post"},
}
# Keys of nested configs. A resumed nanoGPT run has its trainer's defaults under `config`.
SECTIONS = (
    "model_args",
    "model",
    "model_config",
    "config",
    "gpt_config",
    "args",
    "hparams",
    "hyper_parameters",
    "data",
)
FRACTIONS, FLAGS = ("dropout", "norm_eps"), ("qkv_bias", "tied", "attention_scale_by_layer")
CLASS = "the class"  # prefix of a source that is only the default of a class
REFUSED = {"add_cross_attention": "attends to a second text (add_cross_attention)"}


def said(
    configs: Mapping[str, Mapping[str, Any]],
    dialect: Dialect,
    path: object,
    given: Collection[str] = (),
) -> dict[str, tuple[Any, str]]:
    """Field of ModelConfig -> (its value, where `configs` say so).

    `configs` are the configs in the file and alongside it, by name. They may contradict each other
    in the fields of `given`, which the caller sets anyway.
    """
    _require_known_class(configs, dialect, path)
    sources: dict[str, tuple[Any, str]] = {}
    words = list(_words(configs))
    for where, key, value in words:
        if reason := REFUSED.get(key) if value is True else None:
            raise UserError(
                f"{path}: {where} says that the model {reason}, which has no counterpart here."
            )
        for name, meant in dialect.says.get(key, {}).get(value, {}).items():
            sources.setdefault(name, (meant, f"{CLASS} of {where}, {key} = {value!r},"))
    for where, key, value in words:
        name = FIELD.get(key, "")
        if not name or value in dialect.says.get(key, {}) or not _fits(name, value):
            continue
        meant = _meaning(name, value, f"{path}: {where} says {key} = {value!r}")
        old, place = sources.get(name, (meant, CLASS))
        if place.startswith(CLASS) or old == meant:
            sources[name] = (meant, f"{where}: {key} = {value!r}")
        elif "model_args" not in place and name != "dropout" and name not in given:
            raise UserError(
                f"{path}: {place}, but {where}: {key} = {value!r}. "
                f"Say which with --set {name}=VALUE."
            )
    return sources


def _meaning(name: str, value: Any, who: str) -> Any:
    """The value of the field `name` that the config's `value` stands for; `who` begins errors."""
    if name not in VALUES:
        return value
    spelled = value.lower() if isinstance(value, str) else value
    if spelled not in VALUES[name]:
        choices = ", ".join(map(str, VALUES[name]))
        raise UserError(
            f"{who}; there can be {choices}. If that config is not the file's, "
            "--ignore-config passes over it."
        )
    return VALUES[name][spelled]


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
                f"{dialect.name}. If that config is not the file's, --ignore-config passes over it."
            )


def as_written(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Every key of `configs` and their sections -> its value in the first place that has it."""
    return {key: value for _, key, value in reversed(list(_words(configs)))}


def pads(configs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the class has a padding token, which it may hide from attention.

    The key of Hugging Face, pad_token_id, does not count: its classes hide no token by themselves.
    """
    return any(key in ("pad_id", "pad_idx", "padding_idx") for _, key, _ in _words(configs))


def characters(extras: Mapping[str, Any]) -> list[str]:
    """The character of each id, if the extras of a file list them; [] otherwise."""
    for key in (
        "itos",
        "int_to_char",
        "idx_to_char",
        "idx2char",
        "id_to_char",
        "chars",
        "vocab",
        "stoi",
        "char_to_int",
    ):
        words = extras.get(key)
        if isinstance(words, dict) and all(isinstance(word, str) for word in words):
            words = {index: word for word, index in words.items() if isinstance(index, int)}
        if isinstance(words, dict):
            words = [words.get(index) for index in range(len(words))]
        one_each = isinstance(words, list) and all(
            isinstance(word, str) and len(word) == 1 for word in words
        )
        if words and one_each and len({*words}) == len(words):
            return words
    return []


def _words(
    configs: Mapping[str, Mapping[str, Any]], depth: int = 0
) -> Iterator[tuple[str, str, Any]]:
    """Yield (place, key, value) for the plain values of `configs` and their sections.

    The depth is limited because a dict in an untrusted file may contain itself.
    """
    for where, config in configs.items():
        yield from (
            (where, key, value)
            for key, value in config.items()
            if isinstance(key, str) and _plain(value)
        )
        if depth < 2:
            inner = {
                f"{where}, {key}": config[key]
                for key in SECTIONS
                if isinstance(config.get(key), dict)
            }
            yield from _words(inner, depth + 1)


def _plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str))


def _fits(name: str, value: Any) -> bool:
    """Whether `value` has a type and range possible for the field `name`."""
    if name in VALUES:
        return isinstance(value, str if name == "activation" else bool)
    if name in FLAGS:
        return isinstance(value, bool)
    if name in FRACTIONS:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
