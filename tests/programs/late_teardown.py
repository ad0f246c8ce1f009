"""Stop a command while an object waits for the interpreter's teardown."""

import sys

from jaxgpt.commands.shell import run


class Late:
    def __del__(self):
        print("the teardown")


def stop():
    sys.modules["late"] = Late()
    try:
        raise KeyboardInterrupt
    finally:
        print("finally")


run("it", "", {"stop": stop}, ["stop"])
