"""What the parts of the torture share: how much of them is run, and the loop over their lines."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.torture.runner import Line


@dataclass(frozen=True)
class Orders:
    """How much of a part is run: `cases` of each line, or as many as `seconds` allow for all."""

    seed: int
    cases: int | None = None
    seconds: float = 0
    only: str = ""  # the name of a line, "" for all
    case: int | None = None  # the number of one case of this line, which alone is run
    keep: Path | None = None  # where the files of cases that failed are kept

    def carry_out(
        self,
        lines: Sequence[Line],
        case: Callable[[Line, int], str],
        prepare: Callable[[Line], object] = lambda line: None,
    ) -> list[Line]:
        """Run cases of `lines` from number 0 on, in which nothing is damaged, and return these.

        `case` runs one and says what became of it; the time of `prepare` does not count.
        """
        chosen = [line for line in lines if self.only in ("", line.kind)]
        for line in chosen:
            if self.case is not None:
                print(case(line, self.case))
                continue
            prepare(line)
            end = time.monotonic() + self.seconds / len(chosen)
            case(line, 0)
            while line.cases <= self.cases if self.cases is not None else time.monotonic() < end:
                case(line, line.cases)
        return chosen
