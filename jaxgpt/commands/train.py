"""jaxgpt train: a run, from its beginning or from where it stopped."""

from pathlib import Path
from typing import Annotated

import tyro

from jaxgpt.commands.options import Settings
from jaxgpt.settings import read_settings

OptionalConfig = Annotated[
    Path | None,
    tyro.conf.Positional,
    tyro.conf.arg(metavar="[CONFIG]", help_behavior_hint=""),
]
Init = Annotated[str, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]


def train(config: OptionalConfig = None, /, *, settings: Settings, init: Init = "") -> None:
    """Train a model from a config, fine-tune one, or resume a run that was stopped.

    Args:
        config: A TOML file with settings, or the name of a preset such as quickstart; the options
            below override it. Not needed with --init DIR, --data.path TEXT and --run.dir OUT.
        init: A model directory or a run to start from, instead of random weights.
    """
    if init:
        settings = {**settings, "run": {**settings.get("run", {}), "init": init}}
    sections = read_settings(config, settings)
    from jaxgpt.commands.run_ending import ending
    from jaxgpt.devices.distributed import is_process_zero
    from jaxgpt.training.progress import watching
    from jaxgpt.training.run import train as train_run

    with watching() as (say, passing):
        finished = train_run(sections, str(config) if config else None, say, passing)
        if is_process_zero():
            say(ending(finished))
