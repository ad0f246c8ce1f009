"""Regular expressions for the names of views."""

import functools
import re

NUMBER = "0|[1-9][0-9]{0,8}"


@functools.lru_cache(4096)  # the dialects share many views
def compiled(name: str, labels: tuple[tuple[str, ...], ...]) -> re.Pattern[str]:
    """A pattern for the names of a view called `name`, with a group for each axis in braces.

    `labels` are the label axes, each followed by its words; other axes are numbers.
    """
    words_of = {axis: map(re.escape, words) for axis, *words in labels}
    parts = re.split(r"{(\w+)}", name)
    return re.compile(
        "".join(
            f"(?P<{part}>{'|'.join(words_of.get(part, [NUMBER]))})" if i % 2 else re.escape(part)
            for i, part in enumerate(parts)
        )
    )
