"""What all parts share: how many cases are run, and the loop over the lines of a table."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.torture.runner import Line


@dataclass(frozen=True)
class Orders:
    """What is run of a part: `cases` of each line, or as many as fit into `seconds` for all lines."""

    seed: int
    cases: int | None = None
    seconds: float = 0
    only: str = ""  # the name of the only line to run, "" for all
    case: int | None = None  # the number of the only case of this line to run
    keep: Path | None = None  # where the files of failed cases are copied to

    def carry_out(
        self,
        lines: Sequence[Line],
        case: Callable[[Line, int], str],
        prepare: Callable[[Line], object] = lambda line: None,
    ) -> list[Line]:
        """Run cases of `lines`, and return the lines; nothing is damaged in case 0.

        `case` runs one case and returns its outcome as text. `prepare` runs before the first case
        of a line, and its time does not count.
        """
        chosen = [line for line in lines if self.only in ("", line.kind)]
        for line in chosen:
            if self.case is not None:
                print(case(line, self.case))
                continue
            prepare(line)
            end = time.monotonic() + self.seconds / len(chosen)
            case(line, 0)
            while (
                line.cases <= self.cases
                if self.cases is not None
                else line.cases < 2 or time.monotonic() < end
            ):
                case(line, line.cases)
        return chosen
