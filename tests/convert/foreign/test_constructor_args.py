"""The arguments that classes of every calling style are passed, and those they never are."""

import argparse
import copy
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from convert.foreign.constructor_args import Answers
from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from tests.helpers import PRIMES

READ = {"qkv_bias": True, "norm_eps": 1e-6, "tied": True}


def answers(read: dict[str, Any] = READ, **given: Any) -> Answers:
    config = ModelConfig(**PRIMES, qkv_bias=True, activation="gelu", norm="post")
    return Answers(config, read, {"bos": 7, "n_embd": 9999}, given)


def built(target: Any, namespace: dict[str, Any] | None = None, **given: Any) -> Any:
    return answers(**given).build(target, namespace or {})


def test_synonyms_get_the_same_field_and_dropout_is_off() -> None:
    def plain(
        vocab_size: int,
        block_size: int,
        n_embd: int,
        n_layer: int,
        n_head: int,
        dropout: float = 0.2,
    ) -> Any:
        return vocab_size, block_size, n_embd, n_layer, n_head, dropout

    def other(
        n_vocab, max_len, /, d_model, depth, heads, *rest, attn_drop=0.1, eps=1, device=None, **more
    ):
        return n_vocab, max_len, d_model, depth, heads, attn_drop, eps, device

    assert built(plain) == (103, 17, 35, 3, 5, 0)
    assert built(other) == (103, 17, 35, 3, 5, 0, 1, "cpu")


def test_assumed_fields_are_never_passed() -> None:
    """Otherwise running the class would prove nothing: it would obey the assumption."""

    def target(
        n_head, activation="relu", norm_first=False, norm_eps=1e-5, qkv_bias=False, bias=None
    ):
        return activation, norm_first, norm_eps, qkv_bias, bias

    assert built(target) == ("relu", False, 1e-6, True, True)
    assert answers({}).build(target, {}) == ("relu", False, 1e-5, False, True)
    asked = answers(activation="gelu")
    assert asked.build(target, {})[0] == "gelu"
    assert "activation" in asked.fields
    with pytest.raises(
        UserError, match=r"target\(activation\) cannot be built, for nothing says what activation"
    ):

        def target(activation): ...

        built(target)


def test_other_words_come_from_the_file_and_the_user_overrules_all() -> None:
    def target(bos, n_embd, wings=1):
        return bos, n_embd, wings

    asked = answers()
    asked.beside = {"config": "small.toml"}
    assert asked.build(lambda config: config["n_embd"], {}) == 35
    assert built(target) == (7, 35, 1)
    assert built(target, wings=2, n_embd=3, bos="x") == ("x", 3, 2)


@dataclass
class TrainerConfig:
    block_size: int = 1
    learning_rate: float = 1.0


@dataclass
class PartConfig:
    block_size: int = 1
    n_embd: int = 1


@dataclass
class GPTConfig:
    block_size: int
    n_layer: int = 12
    vocab_size: int = 50304
    rate: float = 0.5


class Loose:
    """A config whose signature does not name its fields."""

    n_layer = 12
    drop = 0.1

    def __init__(self, vocab_size: int, **more: Any):
        self.vocab_size = vocab_size


def test_a_config_of_its_own_is_found_and_filled() -> None:
    def unsaid(config):
        return config

    def hinted(whatever: GPTConfig):
        return whatever

    def spelled(whatever: "GPTConfig"):
        return whatever

    def usual(whatever=GPTConfig(1)):  # noqa: B008
        return whatever

    held = {"TrainerConfig": TrainerConfig, "PartConfig": PartConfig, "GPTConfig": GPTConfig}
    for target in (unsaid, hinted, spelled, usual):
        config = built(target, held)
        assert isinstance(config, GPTConfig)
        assert asdict(config) == {"block_size": 17, "n_layer": 3, "vocab_size": 103, "rate": 0.5}
    assert built(hinted, held, rate=2).rate == 2
    assert built(unsaid, {"TrainerConfig": TrainerConfig})["n_embd"] == 35  # not the model's
    loose = built(unsaid, {"LooseConfig": Loose})
    assert (loose.vocab_size, loose.n_layer, loose.n_embd, loose.block_size) == (103, 3, 35, 17)


def test_defaults_are_recorded_where_they_may_matter() -> None:
    """A model may have been trained with other values, and only the user knows."""

    def plain(n_head, wings=1, dropout=0.1, use_bias=True, dtype=None): ...

    def reads(config: GPTConfig):
        return config.n_layer, config.rate

    def reads_nothing(config: GPTConfig): ...

    def copies(config: GPTConfig):
        return dict(vars(config))

    def looks_up(cfg):
        return "wings" in cfg, cfg.get("tail", 3), cfg["n_head"]

    def any_object(cfg: argparse.Namespace):
        return getattr(cfg, "wings", 2)

    recorded = {
        plain: {"wings": 1},
        reads: {"rate": 0.5},
        reads_nothing: {},
        copies: {"rate": 0.5},
        looks_up: {"wings": "nothing", "tail": 3},
        any_object: {"wings": "nothing"},
    }
    for target, defaults in recorded.items():
        asked = answers()
        asked.build(target, {})
        assert asked.defaults == defaults
    asked = answers(wings=2)
    asked.build(plain, {})
    assert asked.defaults == {}


def test_a_config_that_is_a_dict_or_any_object_answers_what_it_is_asked() -> None:
    def as_dict(cfg):
        assert "emb_dim" in cfg
        assert "wings" not in cfg
        return cfg["emb_dim"], cfg.get("n_heads"), cfg.get("wings", 4), cfg["drop_rate"]

    def as_object(args: argparse.Namespace):
        assert not hasattr(args, "wings")
        return args.emb_dim, args.n_heads, getattr(args, "wings", 4), args.drop_rate

    def with_defaults(config={"emb_dim": 1, "wings": 4, "n_heads": 2}):  # noqa: B006
        return config["emb_dim"], config["n_heads"], config["wings"], config["drop_rate"]

    def typed(whatever: dict):
        return as_dict(whatever)

    for target in (as_dict, as_object, with_defaults, typed):
        assert built(target) == (35, 5, 4, 0)
    kept = copy.deepcopy(built(lambda cfg: cfg))  # as a class that keeps it is copied
    assert (kept.emb_dim, kept["n_layers"]) == (35, 3)
    assert built(as_dict, cfg={"emb_dim": 2, "drop_rate": 1}) == (2, None, 4, 1)
    with pytest.raises(KeyError, match="wings"):
        built(lambda cfg: cfg["wings"])
    with pytest.raises(AttributeError, match="its config has no wings"):
        built(lambda cfg: cfg.wings)
