"""Print the devices of a CPU, their threads, and whether programs run ahead."""

import json
import os

from jaxgpt.config import MeshConfig
from jaxgpt.devices.cpu import use_devices

use_devices(MeshConfig(data=1, fsdp=2))
import jax

print(
    json.dumps(
        [
            jax.device_count(),
            int(os.environ["NPROC"]),
            jax.config.values["jax_cpu_enable_async_dispatch"],
        ]
    )
)
