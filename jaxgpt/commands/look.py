"""jaxgpt look: the attention of a model over a text."""

from typing import Annotated

import tyro

from jaxgpt.commands.options import Directory, OptionalFile, Tokenizer, Unknown
from jaxgpt.commands.shell import console, working

UNLIMITED = 10**6  # columns: a pipe has as many as a table takes
Head = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]


def look(
    directory: Directory,
    /,
    *,
    text: str,
    out: OptionalFile = None,
    layer: int = -1,
    head: Head = None,
    top: int = 5,
    tokenizer: Tokenizer = None,
    errors: Unknown = "strict",
) -> None:
    """Show attention over a text, and what the model expected at each token.

    Args:
        text: The text to look at; ids, if there is no tokenizer.
        out: A picture to write of every head of every layer, such as attention.png.
        layer: The layer that the table shows; -1 is the last.
        head: The head that the table shows; by default the mean of all.
        top: Number of likeliest tokens to list.
    """
    from jaxgpt.generation import inspect

    with working(f"looking into {directory}"):
        seen = inspect.look(directory, text, tokenizer, errors, out)
    page = console()
    width = page.width if page.is_terminal else None
    page.width = width or UNLIMITED
    page.print(inspect.attention_table(seen, layer, head, width))
    page.print("", inspect.token_table(seen, top))
    if out:
        print(f"{out} shows all heads of all layers.")
