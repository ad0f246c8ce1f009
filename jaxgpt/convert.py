"""The package `convert`, under a name that no file of yours can hide.

A script called convert.py, or a folder of that name, hides the package of the same name from
`import convert`. `from jaxgpt import convert` always gives the package installed with jaxgpt.
"""

import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for editors, which run nothing
    from convert import *  # noqa: F403

INSTALLED = Path(__file__).parents[1] / "convert" / "__init__.py"


def _file_of_convert() -> Path | None:
    """The file that `import convert` runs here."""
    if "convert" in sys.modules:
        file = getattr(sys.modules["convert"], "__file__", None)
    else:
        spec = importlib.util.find_spec("convert")
        file = spec.origin if spec else None
    return Path(file).resolve() if file else None


def _load() -> ModuleType:
    """The installed package: as `convert`, or as `jaxgpt.convert` if another file has that name."""
    file = _file_of_convert()
    if file == INSTALLED.resolve():
        return importlib.import_module("convert")
    warnings.warn(
        f"`import convert` gives {file or 'a folder'} here, which hides jaxgpt's package of that "
        "name. `from jaxgpt import convert` is not affected.",
        stacklevel=2,
    )
    spec = importlib.util.spec_from_file_location(
        __name__, INSTALLED, submodule_search_locations=[str(INSTALLED.parent)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[__name__] = package
    spec.loader.exec_module(package)
    return package


sys.modules[__name__] = _load()
