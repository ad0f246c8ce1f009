"""jaxgpt export: a model as programs that run without jaxgpt."""

from pathlib import Path

from jaxgpt.commands.options import Directory
from jaxgpt.system.stages import working


def export(directory: Directory, /, *, out: Path, batch_size: int = 1) -> None:
    """Write prefill and decode as StableHLO, which runs anywhere without jaxgpt.

    Args:
        out: The file to write: a zip of the two programs, weights included, and a description.
        batch_size: Number of texts at a time.
    """
    from jaxgpt.generation.export import export as write_programs

    with working(f"exporting {directory}"):
        write_programs(directory, out, batch_size)
    print(f"{out}: prefill.stablehlo, decode.stablehlo and about.json, which says how to call them")
