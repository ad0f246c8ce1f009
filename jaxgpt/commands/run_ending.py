"""The last lines that `jaxgpt train` prints."""

import shlex

from jaxgpt import file_names
from jaxgpt.config import OptimConfig
from jaxgpt.optional import installed
from jaxgpt.storage import run_directory
from jaxgpt.training.job import Job
from jaxgpt.training.run import Finished


def ending(finished: Finished) -> str:
    """The last losses of a run, its files, and commands to try next."""
    job, run, steps = finished.job, finished.directory, finished.steps
    summary = run_directory.summary(run)
    loss, val_loss = (
        "unknown" if x is None else f"{x:.4f}" for x in (summary.loss, summary.val_loss)
    )
    evaluated_on = "" if summary.val_loss is None else f" ({finished.extent})"
    files = [file_names.METRICS, file_names.CONFIG, file_names.CHECKPOINTS]
    if (run / file_names.PICTURE).exists():
        files.insert(1, file_names.PICTURE)
    quoted = shlex.quote(str(run))
    lines = [
        f"Done: {steps} steps, loss {loss}, best validation loss {val_loss}{evaluated_on}.",
        f"  run       {run}: {', '.join(files)}",
        f"  evaluate  jaxgpt eval {quoted}",
        f"  sample    jaxgpt sample {quoted}" + (" --source TEXT" if job.config.encoder else ""),
    ]
    if command := _to_torch(job):
        lines.append(f"  export    {command}")
    return "\n".join([*lines, f"  resume    the same command with --train.steps {2 * steps}"])


def _to_torch(job: Job) -> str:
    """The command that writes the model for torch, or "" if there may be no class for it.

    The model is written like the file that it came from, or for a class that the converter chooses.
    Without torch the format is safetensors, which holds only the weights. The file is next to the
    run, where git ignores both if it ignores runs/.
    """
    config, file = job.config, job.origin.get("source")
    if config.model.positions_offset and not file:  # only OPT has rows before position 0
        return ""
    groups = (file or {}).get("settings", {}).get("optim", {}).get("decay", OptimConfig.decay)
    torch = installed("torch")
    name = job.directory.resolve().name + (".pt" if torch else ".safetensors")
    words = ["jaxgpt-convert", "to-torch", str(job.directory), str(job.directory.parent / name)]
    # torch's AdamW cannot hold an average, these groups, or the state of Muon or of adapters.
    other = config.optim.name != "adamw" or config.optim.ema or config.train.lora_rank
    if other or config.optim.decay not in ("all", groups) or not torch:
        words.append("--weights-only")
    return shlex.join(words)
