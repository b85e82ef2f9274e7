"""What `import stepwarden` costs a program at its start: CPU time over a bare interpreter's."""

import os
import resource
import statistics
import subprocess
import sys
from dataclasses import dataclass

from benchmarks._measure import ROUNDS, yes_or_no

GOAL_MS = 60.0
HEADINGS = ("what", "measured (ms of CPU)", "goal", "met")


@dataclass(frozen=True, slots=True)
class ImportCost:
    """What the import adds to a bare interpreter, in milliseconds of CPU."""

    milliseconds: float

    @property
    def is_met(self) -> bool:
        """Tell whether the import is cheap enough."""
        return self.milliseconds <= GOAL_MS

    def cells(self) -> tuple[str, ...]:
        """Give the texts of the row's columns."""
        return ("import stepwarden", f"{self.milliseconds:.1f}", f"≤ {GOAL_MS:g}", yes_or_no(self.is_met))


def measure() -> ImportCost:
    """Take the median over pairs of interpreters, one that imports and one that does not."""
    _cpu_ms("import stepwarden")  # the first one compiles, and reads the disk
    differences = [_cpu_ms("import stepwarden") - _cpu_ms("pass") for _ in range(ROUNDS)]
    return ImportCost(statistics.median(differences))


def _cpu_ms(statement: str) -> float:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1_000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
