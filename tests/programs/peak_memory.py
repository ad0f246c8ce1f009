"""Run jaxgpt-convert, and print the peak of its memory in bytes."""

import re
from pathlib import Path

from convert.__main__ import main

try:
    main()
finally:
    print(1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]))
