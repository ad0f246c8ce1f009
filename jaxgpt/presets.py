"""The configs that come with jaxgpt, found by name wherever a command takes a config file."""

import difflib
from pathlib import Path

from jaxgpt.errors import require

# In a wheel they are inside the package, in a clone next to it.
PLACES = (Path(__file__).parent / "configs", Path(__file__).parents[1] / "configs")


def presets() -> dict[str, Path]:
    """The file of each preset by its name."""
    files = (sorted(place.glob("*.toml")) for place in PLACES)
    return {file.stem: file for file in next(filter(None, files), [])}


def config_file(path: Path) -> Path:
    """The first file that exists: `path`, `path` with .toml added, or the preset of that name."""
    for file in (path, Path(f"{path}.toml")):
        if file.exists() and not file.is_dir():
            return file
    shipped = presets()
    near = difflib.get_close_matches(str(path), shipped, n=1)
    require(
        str(path) in shipped,
        f"{path}: there is no such file, and no preset of that name. "
        f"{f'Did you mean {near[0]}? ' if near else ''}The presets are {', '.join(shipped)}; any "
        "other config is named by its path, such as my_config.toml.",
    )
    return shipped[str(path)]
