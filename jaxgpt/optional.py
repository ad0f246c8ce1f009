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


def need(module: str, what: object, way_out: str = "") -> Any:
    """Import `module`, which `what` needs; `way_out` says how to do without."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        without = f", or {way_out}" if way_out else ""
        raise UserError(
            f"{what} needs {package}, which cannot be imported ({error}): "
            f"pip install --upgrade {package}{without}."
        ) from None
