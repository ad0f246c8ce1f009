"""Traces some steps of a run, for xprof and perfetto."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from jaxgpt.config import RunConfig
from jaxgpt.devices.distributed import is_process_zero
from jaxgpt.file_names import PROFILE
from jaxgpt.training.progress import Say

PERFETTO = "perfetto_trace.json.gz"


class Profile:
    """Traces the steps of run.profile in the first process; does nothing in the others."""

    def __init__(self, run: RunConfig, directory: Path, say: Say):
        self.steps = range(0)
        if run.profile and is_process_zero():
            start, last = run.profiled
            self.steps = range(start, last + 1)
        self.folder, self.say = directory / PROFILE, say
        self.begun = 0  # the first step of the trace being written; 0 while there is none

    def before(self, step: int, state: Any) -> contextlib.AbstractContextManager:
        """Begin the trace if `step`, which follows `state`, is the first of it; mark the step."""
        if step not in self.steps:
            return contextlib.nullcontext()
        if not self.begun:
            jax.block_until_ready(state)  # keep earlier steps out of the trace
            jax.profiler.start_trace(self.folder, create_perfetto_trace=True)
            self.begun = step
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def after(self, step: int, state: Any) -> None:
        """End the trace if `step`, which computed `state`, is the last of it."""
        if self.begun and step == self.steps[-1]:
            jax.block_until_ready(state)
            self.end(step)

    def end(self, step: int) -> None:
        """Write the trace, whose last step is `step`, and say how to open it."""
        jax.profiler.stop_trace()
        begun, self.begun = self.begun, 0
        newest = max(self.folder.rglob(PERFETTO), key=lambda file: file.stat().st_mtime)
        self.say(
            f"Traced the steps {begun} to {step}. Open {newest} at https://ui.perfetto.dev, or "
            f"pip install xprof and run: xprof --logdir {self.folder}"
        )

    @contextlib.contextmanager
    def stopped_at_exit(self) -> Iterator[None]:
        """Stop a trace that was cut short by a signal or an error; its files are written as
        well."""
        try:
            yield
        finally:
            if self.begun:
                jax.profiler.stop_trace()
                self.begun = 0
