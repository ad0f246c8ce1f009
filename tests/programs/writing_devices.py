"""Print how many devices write text."""

import sys

import jax

from jaxgpt.__main__ import main

sys.argv = ["jaxgpt", "sample", "nowhere"]
try:
    main()
except SystemExit:
    print(jax.device_count())
