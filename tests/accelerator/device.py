"""The device and the versions of the libraries."""

import importlib.metadata
import os
import platform
from collections.abc import Iterator

import jax

from jaxgpt.devices.chips import chip
from jaxgpt.optional import installed
from tests.accelerator import Row
from tests.accelerator.settings import Settings

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "libtpu", "torch")
PLATFORM = "platform"


def measure(settings: Settings) -> Iterator[Row]:
    device = jax.devices()[0]
    yield {"what": PLATFORM, "value": device.platform}
    yield {"what": "device", "value": device.device_kind}
    yield {"what": "devices", "value": len(jax.devices())}
    data_sheet = chip(device.device_kind)
    if data_sheet:
        yield {"what": "peak by the data sheet, TFLOP/s", "value": data_sheet.peak / 1e12}
        yield {"what": "memory bandwidth, GB/s", "value": data_sheet.bandwidth / 1e9}
        yield {"what": "memory, GB", "value": data_sheet.memory / 1e9}
    yield {"what": "python", "value": platform.python_version()}
    for name in LIBRARIES:
        if installed(name):
            yield {"what": name, "value": importlib.metadata.version(name)}
    yield {"what": "XLA_FLAGS", "value": os.environ.get("XLA_FLAGS", "")}
