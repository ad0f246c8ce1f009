"""Run jaxgpt-convert where torch cannot be imported."""

import sys


class Without:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'")


sys.meta_path.insert(0, Without())
from convert.__main__ import main

main()
