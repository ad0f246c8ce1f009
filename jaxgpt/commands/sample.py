"""jaxgpt sample: text from a model, after a prompt or for sources."""

import sys
from typing import Annotated, Literal

import tyro

from jaxgpt.commands.options import (
    Directory,
    OptionalFile,
    TargetTokenizer,
    Tokenizer,
    Unknown,
    Weights,
)

Temperature = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")]


def sample(
    directory: Directory,
    /,
    *,
    prompt: str = "",
    prompt_file: OptionalFile = None,
    tokens: int = 500,
    samples: int = 1,
    temperature: Temperature = None,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int = 0,
    stop: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    on_full: Literal["slide", "stop"] = "slide",
    context: int = 0,
    source: str = "",
    source_file: OptionalFile = None,
    beams: int = 1,
    length_penalty: float = 1.0,
    start: int = -1,
    end: int = -1,
    tokenizer: Tokenizer = None,
    target_tokenizer: TargetTokenizer = None,
    errors: Unknown = "strict",
    weights: Weights = "stored",
    stats: bool = False,
) -> None:
    """Generate text with a model; one without a tokenizer reads and writes ids.

    A decoder continues a prompt; an encoder-decoder writes a text for each source.

    Args:
        prompt: The text to continue; - reads standard input.
        prompt_file: A file with the text to continue.
        tokens: Number of new tokens.
        samples: Number of texts.
        temperature: 0 always takes the most likely token; 1 draws from the model's own
            probabilities. By default, 0.8 after a prompt, and 0 for sources and with beams.
        top_k: Draw only from the TOP_K most likely tokens; 0 draws from all.
        top_p: Draw only from the most likely tokens whose probabilities sum to TOP_P.
        min_p: Draw only from tokens with at least MIN_P times the highest probability.
        seed: The same seed writes the same text.
        stop: End before this text, which is not written; may be repeated.
        on_full: When the text fills the context, slide continues it from its end, stop ends it.
        context: Number of tokens that the model sees at once; 0 is as many as it was trained with.
            Models with rotary, ALiBi or no positions can see more.
        source: The text that an encoder-decoder reads; - reads a source on each line of standard
            input.
        source_file: A file with a source on each line; the texts are written in their order.
        beams: Number of texts that are continued together to find the most likely one; 1 does not
            search.
        length_penalty: Beams compare log-probabilities divided by length to this power; a larger
            one prefers longer texts.
        start: The id that a text of an encoder-decoder begins with; -1 takes the model's.
        end: The id that ends it; -1 takes the model's.
        stats: Print the speed at the end.
    """
    from jaxgpt.generation.beam import Beams
    from jaxgpt.generation.options import SampleOptions
    from jaxgpt.generation.pair import PairOptions
    from jaxgpt.generation.sample import sample as print_texts
    from jaxgpt.generation.sample_pair import require_unused, sample_pair
    from jaxgpt.generation.text import read_prompt, read_sources

    sources = bool(source) or source_file is not None
    if temperature is None:
        temperature = 0.0 if sources or beams > 1 else 0.8
    options = SampleOptions(
        max_new_tokens=tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        samples=samples,
        on_full=on_full,
        context=context,
    )
    wanted = Beams(beams, length_penalty)
    if sources:
        require_unused(prompt=prompt, prompt_file=prompt_file, stop=stop)
        texts = read_sources(source, source_file)
        pair_options = PairOptions(tokenizer, target_tokenizer, errors, start, end, weights)
        speed = sample_pair(directory, texts, options, wanted, pair_options)
    else:
        text = read_prompt(prompt, prompt_file)
        speed = print_texts(
            directory,
            text,
            options,
            tokenizer=tokenizer,
            errors=errors,
            stop=stop,
            beams=wanted,
            weights=weights,
        )
    if stats:
        print(speed, file=sys.stderr)
