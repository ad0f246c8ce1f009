"""jaxgpt-convert verify: the proof that a file and a model directory hold the same function."""

import json as json_format
from typing import Annotated, Any

import tyro

from jaxgpt.errors import UserError
from jaxgpt.system.stages import working

from .options import DialectName, Directory, File, Json, TorchArgs, torch_arguments

DIFFERS, UNPROVEN = 3, 4  # exit codes


def verify(
    file: File,
    directory: Directory,
    /,
    *,
    torch: Annotated[str, tyro.conf.arg(metavar="MODULE:CLASS")] = "",
    torch_args: TorchArgs = (),
    dialect: DialectName = None,
    train_steps: int = 0,
    allow_assumed: bool = False,
    json: Json = False,
) -> int:
    """Prove that a checkpoint and a model are the same, by running both on the same tokens.

    The exit code is 0 if they are proven to be the same, 3 if they differ, and 4 if they are equal
    only under assumptions.

    Args:
        directory: A model directory.
        torch: The class of FILE, module:Class or file.py:Class, or a function that returns the
            model. Its code is run.
        torch_args: An argument of that class, such as n_head=6, JSON or text; may be repeated.
        train_steps: Also compare every gradient, and the parameters after this many steps of
            AdamW.
        allow_assumed: End with exit code 0 instead of 4; the output still says UNPROVEN.
    """
    from ..files import torchfile

    torchfile.need_torch("verify")
    from ..proving.verify import verify as compare
    from . import verify_page

    _require_consistent(torch, torch_args, train_steps)
    options: dict[str, Any] = {
        "dialect": dialect, "torch": torch, "torch_args": torch_arguments(torch_args),
    }  # fmt: skip
    with working(f"running {file} and {directory} in float64"):
        page = compare(file, directory, train_steps, **options)
    if json:
        print(json_format.dumps(page.as_dict(), indent=2))
    else:
        verify_page.show(page)
    codes = {"proven": 0, "unproven": 0 if allow_assumed else UNPROVEN, "differs": DIFFERS}
    return codes[page.verdict]


def _require_consistent(torch: str, torch_args: TorchArgs, train_steps: int) -> None:
    if train_steps < 0:
        raise UserError(f"--train-steps must not be negative, but is {train_steps}.")
    if torch_args and not torch:
        raise UserError("--torch-arg is an argument of the class of --torch, which is missing.")
