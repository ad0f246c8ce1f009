"""jaxgpt look: the attention of a model over a text."""

from typing import Annotated

import tyro

from jaxgpt.commands.options import Directory, OptionalFile, TargetTokenizer, Tokenizer, Unknown
from jaxgpt.commands.shell import console
from jaxgpt.system.stages import working

UNLIMITED = 10**6  # columns: a pipe has as many as a table takes
Head = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]


def look(
    directory: Directory,
    /,
    *,
    text: str = "",
    source: str = "",
    out: OptionalFile = None,
    layer: int = -1,
    head: Head = None,
    top: int = 5,
    start: int = -1,
    end: int = -1,
    tokenizer: Tokenizer = None,
    target_tokenizer: TargetTokenizer = None,
    errors: Unknown = "strict",
) -> None:
    """Show the attention over a text, and what the model predicted at each token.

    Args:
        text: The text to look at; ids, if there is no tokenizer. For an encoder-decoder, the
            target; by default the one that it writes.
        source: The text that an encoder-decoder reads.
        out: A picture to write, such as attention.png: every head of every layer, or for an
            encoder-decoder the alignment of what it writes with the source.
        layer: The layer that the tables show; -1 is the last.
        head: The head that the tables show; by default the mean of all.
        top: Number of most likely tokens to list.
        start: The id that a text of an encoder-decoder begins with; -1 takes the model's.
        end: The id that ends it; -1 takes the model's.
    """
    from jaxgpt.generation import inspect
    from jaxgpt.generation.attention_map import map_table
    from jaxgpt.generation.inspect_pair import look_pair
    from jaxgpt.generation.pair import PairOptions

    with working(f"looking into {directory}"):
        if source:
            options = PairOptions(tokenizer, target_tokenizer, errors, start, end)
            maps, seen = look_pair(directory, source, text, options, out)
        else:
            seen = inspect.look_at(directory, text, tokenizer, errors, out)
            maps = [inspect.map_of(seen)]
    page = console()
    width = page.width if page.is_terminal else None
    page.width = width or UNLIMITED
    for each in maps:
        page.print(map_table(each, layer, head, width), "")
    page.print(inspect.token_table(seen, top))
    if out:
        shows = "where each token looks in the source" if source else "all heads of all layers"
        print(f"{out} shows {shows}.")
