"""Transformers in Flax: train them, sample from them, look inside, export them.

The public names, each loaded when it is first used, so that the import costs nothing:

    GPT             the model, an NNX module: int ids (B, T) -> logits (B, T, vocab_size)
    Seq2Seq         an encoder-decoder: ids of sources and of targets -> logits
    ModelConfig     every choice about a model, as a frozen dataclass
    UserError       raised where the input is wrong; says what is, and the way out
    load            the model in a model directory or a run
    load_tokenizer  the tokenizer in a model directory, a run, or a file
    save            writes a model, however it was built or trained, as a model directory
    convert         the package that brings PyTorch checkpoints over and back
    generate        yields new ids after a prompt, in pieces as they are computed
    translate       yields the ids that an encoder-decoder writes for each source
    score           log-probabilities of the ids of a text, each given those before it
    look            logits, hidden states of every layer and attention, by one call
    compiled_step   the training step and its first state, for a loop of your own
    to_int8         a copy of a model with kernels in int8, which generates faster on a CPU
    params_of       the parameters of a model, a nested dict of arrays
    assemble        the model with the parameters of such a dict

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
    from jaxgpt.generation.inside import look as look
    from jaxgpt.generation.score import score as score
    from jaxgpt.generation.stream import generate as generate
    from jaxgpt.generation.translate import translate as translate
    from jaxgpt.model import GPT as GPT
    from jaxgpt.model import Seq2Seq as Seq2Seq
    from jaxgpt.model import assemble as assemble
    from jaxgpt.model import params_of as params_of
    from jaxgpt.model import to_int8 as to_int8
    from jaxgpt.storage.model_directory import load as load
    from jaxgpt.storage.model_directory import load_tokenizer as load_tokenizer
    from jaxgpt.storage.models import save as save
    from jaxgpt.training.own_loop import compiled_step as compiled_step

__version__ = "0.1.0"

_HOMES = {
    "GPT": "model",
    "Seq2Seq": "model",
    "ModelConfig": "config",
    "UserError": "errors",
    "assemble": "model",
    "compiled_step": "training.own_loop",
    "generate": "generation.stream",
    "load": "storage.model_directory",
    "load_tokenizer": "storage.model_directory",
    "look": "generation.inside",
    "params_of": "model",
    "save": "storage.models",
    "score": "generation.score",
    "to_int8": "model",
    "translate": "generation.translate",
}
__all__ = [
    "GPT",
    "ModelConfig",
    "Seq2Seq",
    "UserError",
    "assemble",
    "compiled_step",
    "convert",
    "generate",
    "load",
    "load_tokenizer",
    "look",
    "params_of",
    "save",
    "score",
    "to_int8",
    "translate",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "convert":
        return importlib.import_module(f"{__name__}.convert")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names, which is what `help` and completion show."""
    return [*__all__]
