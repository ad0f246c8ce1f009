"""How work that takes long reports its progress to its caller."""

from collections.abc import Callable

# (name of the stage, amount of work in it) -> a function to call with each amount that is done
Stage = Callable[[str, int], Callable[[int], None]]


def silent(name: str, total: int) -> Callable[[int], None]:
    """A Stage that shows nothing."""
    return lambda done: None
