"""Everything that only an accelerator can show, measured by one command and written to one page.

Each section is a file with a function `measure(settings)` that yields rows of figures; its first
line says what the section shows. SECTIONS lists them in the order in which they run and are
printed.
"""

from typing import Any

# The name of each section, and its time in seconds: less than ten minutes together. Sections pass
# on the time that they do not use.
SECTIONS = {
    "device": 25,
    "parity": 100,
    "attention": 70,
    "training": 60,
    "resume": 70,
    "compiled": 60,
    "throughput": 120,
    "torch_speed": 50,
    "generation": 35,
}

# The figures of one line of a table, by the names of its columns. None is a figure that was not
# measured, for the reason that "note" states. Where "verdict" is WRONG, the section has failed.
Row = dict[str, Any]
RIGHT, WRONG = "right", "WRONG"
