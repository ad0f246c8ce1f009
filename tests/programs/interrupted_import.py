"""Send SIGINT while jaxlib is being imported."""

import os
import signal
import sys
import threading

from jaxgpt.commands.shell import run


class Interrupting:
    def find_spec(self, name, *_):
        if name == "jaxlib._jax":
            os.kill(os.getpid(), signal.SIGINT)


def slow():
    import jax  # noqa: F401

    print("imported", flush=True)
    threading.Event().wait(60)


sys.meta_path.insert(0, Interrupting())
run("it", "", {"slow": slow}, ["slow"])
