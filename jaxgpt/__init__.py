"""A GPT decoder in Flax: train it, sample from it, look inside, export it.

The public names, each loaded when it is first used, so that the import costs nothing:

    GPT             the model, an NNX module: int ids (B, T) -> logits (B, T, vocab_size)
    Seq2Seq         an encoder-decoder: ids of sources and of targets -> logits
    ModelConfig     every choice about a model, as a frozen dataclass
    UserError       raised where the input is wrong; says what is, and the way out
    load            the model in a model directory or a run
    load_tokenizer  the tokenizer in a model directory, a run, or a file
    convert         the package that brings PyTorch checkpoints over and back
    generate        yields new ids after a prompt, in pieces as they are computed
    translate       yields the ids that an encoder-decoder writes for each source

For example:

    import jaxgpt

    model, tokenizer = jaxgpt.load("run"), jaxgpt.load_tokenizer("run")
    ids = tokenizer.encode("The ")
    for piece in jaxgpt.generate(model, ids, max_new_tokens=50, temperature=0.8, seed=0):
        print(tokenizer.decode(piece), end="")

The command line is `jaxgpt --help`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors, which run nothing
    from jaxgpt import convert as convert
    from jaxgpt.config import ModelConfig as ModelConfig
    from jaxgpt.errors import UserError as UserError
    from jaxgpt.generation.stream import generate as generate
    from jaxgpt.generation.translate import translate as translate
    from jaxgpt.model import GPT as GPT
    from jaxgpt.model import Seq2Seq as Seq2Seq
    from jaxgpt.storage.model_directory import load as load
    from jaxgpt.storage.model_directory import load_tokenizer as load_tokenizer

__version__ = "0.1.0"

_HOMES = {
    "GPT": "model",
    "Seq2Seq": "model",
    "ModelConfig": "config",
    "UserError": "errors",
    "generate": "generation.stream",
    "load": "storage.model_directory",
    "load_tokenizer": "storage.model_directory",
    "translate": "generation.translate",
}
__all__ = [
    "GPT",
    "ModelConfig",
    "Seq2Seq",
    "UserError",
    "convert",
    "generate",
    "load",
    "load_tokenizer",
    "translate",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "convert":
        return importlib.import_module(f"{__name__}.convert")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names and the module's own attributes: what completion offers."""
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
