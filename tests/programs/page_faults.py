"""Count page faults of memory that is freed and used again."""

import resource
import sys

import numpy as np

from jaxgpt.devices.cpu import keep_memory

if sys.argv[1] == "kept":
    keep_memory()


def faults():
    np.ones(2**23)  # 64 MB, given back at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


first = faults()
for _ in range(20):
    last = faults()
print(last - first)
