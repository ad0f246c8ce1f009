"""The command line: jaxgpt. Heavy imports wait inside the commands, so that --help answers at once."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from jaxgpt.config import UserError


def run(prog: str, description: str, commands: Mapping[str, Callable[..., Any]]) -> None:
    """Exit codes: what the command returns (0 for None), 2 where the user's input is wrong, 1 for anything else."""
    import tyro

    try:
        code = tyro.extras.subcommand_cli_from_dict(
            dict(commands), prog=prog, description=description, config=(tyro.conf.FlagCreatePairsOff,)
        )
    except UserError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    sys.exit(code or 0)


def main() -> None:
    run("jaxgpt", "A GPT decoder in Flax: train it, look at it, carry it.", {})


if __name__ == "__main__":
    main()
