"""lm-eval's command with one more model type, jaxgpt; lm-eval itself does not look for plugins.

python -m jaxgpt.lm_eval --model jaxgpt --model_args path=DIR --tasks NAME
"""

import sys

from jaxgpt.errors import Failure, UserError
from jaxgpt.optional import need

NAME = "python -m jaxgpt.lm_eval"
MODEL = "jaxgpt.lm_eval.model:DirectoryLM"


def main() -> None:
    try:
        command = need("lm_eval.__main__", NAME)
        need("lm_eval.models", NAME)  # registers lm-eval's own models, only while there are none
        need("lm_eval.api.registry", NAME).model_registry.register("jaxgpt", target=MODEL)
        command.cli_evaluate()
    except (UserError, Failure) as error:
        print(f"jaxgpt.lm_eval: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)


if __name__ == "__main__":
    main()
