"""Libraries that need not be installed."""

import importlib
import importlib.util
from typing import Any

from jaxgpt.errors import UserError


def installed(module: str) -> bool:
    """Whether `module` can be found, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (
        ModuleNotFoundError,
        ValueError,
    ):  # its package is missing, or it is None in sys.modules
        return False


def how_to_install(package: str) -> str:
    """The end of a sentence on a `package` that is missing or too old."""
    if package != "torch":
        return f"pip install --upgrade {package}"
    return (
        "install a CPU build with the command on torch's own installation page, or with uv pip "
        "install --torch-backend cpu --upgrade torch (what pip takes by itself on Linux has "
        "gigabytes of CUDA with it)"
    )


def need(module: str, what: object, way_out: str = "") -> Any:
    """Import `module`, which `what` needs; `way_out` says how to do without."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        without = f", or {way_out}" if way_out else ""
        raise UserError(
            f"{what} needs {package}, which cannot be imported ({error}): "
            f"{how_to_install(package)}{without}."
        ) from None
