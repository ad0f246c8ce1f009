"""jaxgpt plan: the memory, traffic and time that a run would need."""

from pathlib import Path
from typing import Annotated

import tyro

from jaxgpt.commands.options import Settings
from jaxgpt.settings import read_settings
from jaxgpt.system.stages import working

ConfigFile = Annotated[
    Path,
    tyro.conf.Positional,
    tyro.conf.arg(metavar="CONFIG", help_behavior_hint=""),
]
Topology = Annotated[str, tyro.conf.arg(metavar="NAME", help_behavior_hint="")]


def plan(config: ConfigFile, /, *, settings: Settings, topology: Topology = "") -> int:
    """Estimate memory, traffic and time of a step, on devices that need not be here.

    Exit code 3 if it does not fit.

    Args:
        config: A TOML file or a preset, as for train.
        topology: A slice of TPUs or a machine with GPUs, such as v5e:16x16 or h200:8; by default
            the devices present.
    """
    sections = read_settings(config, settings)
    from jaxgpt.planning.page import page
    from jaxgpt.planning.plan import plan as plan_run

    name = f"{config.stem} on {topology or 'the devices at hand'}"
    with working(name) as stage:
        planned, other = plan_run(sections, str(config), topology, stage)
    print(page(planned, name, other))
    return 0 if planned.fits else 3
