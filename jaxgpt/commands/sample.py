"""jaxgpt sample: text from a model, as it is generated."""

import sys
from typing import Annotated, Literal

import tyro

from jaxgpt.commands.options import Directory, OptionalFile, Tokenizer, Unknown


def sample(
    directory: Directory,
    /,
    *,
    prompt: str = "",
    prompt_file: OptionalFile = None,
    tokens: int = 500,
    samples: int = 1,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int = 0,
    stop: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    on_full: Literal["slide", "stop"] = "slide",
    context: int = 0,
    tokenizer: Tokenizer = None,
    errors: Unknown = "strict",
    stats: bool = False,
) -> None:
    """Write text with a model; without a tokenizer, prompt and text are ids.

    Args:
        prompt: The text to continue; - reads standard input.
        prompt_file: A file with the text to continue.
        tokens: Number of new tokens.
        samples: Number of texts.
        temperature: 0 always takes the likeliest token; 1 draws from the model's own probabilities.
        top_k: Draw only from the TOP_K likeliest tokens; 0 draws from all.
        top_p: Draw only from the likeliest tokens whose probabilities sum to TOP_P.
        min_p: Draw only from tokens with at least MIN_P times the probability of the likeliest.
        seed: The same seed writes the same text.
        stop: Text at which to end, and which is not written; may be repeated.
        on_full: Past the context, slide continues with the end of the text, stop ends.
        context: Number of tokens that the model sees at once; 0 is as many as it was made for.
            Models with rotary, ALiBi or no positions can see more.
        stats: Print how long it took.
    """
    from jaxgpt.generation.options import SampleOptions
    from jaxgpt.generation.sample import sample as print_texts
    from jaxgpt.generation.text import read_prompt

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
    text = read_prompt(prompt, prompt_file)
    speed = print_texts(directory, text, options, tokenizer=tokenizer, errors=errors, stop=stop)
    if stats:
        print(speed, file=sys.stderr)
