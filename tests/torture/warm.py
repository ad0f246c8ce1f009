"""Imports everything that commands import, once for all forked processes; computes nothing."""

import datasets  # noqa: F401
import jax  # noqa: F401
import matplotlib.figure  # noqa: F401
import torch  # noqa: F401

import jaxgpt.__main__
import jaxgpt.commands.options
import jaxgpt.data.prepare_answers
import jaxgpt.data.prepare_pairs
import jaxgpt.generation.export
import jaxgpt.training.progress
import jaxgpt.training.run  # noqa: F401
import tests.torture.commands  # noqa: F401
