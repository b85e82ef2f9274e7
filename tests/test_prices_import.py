"""The first look-up of a price imports the list, and whatever asks again in the middle of that gets an answer."""

import subprocess
import sys

import pytest

ASK = """
import gc
import sys
import stepwarden as sw
from stepwarden import prices

asked = []


class InTheMiddle:
    def find_spec(self, name, path, target=None):
        if name.startswith("genai_prices"):
            asked.append(name)
            {act}


sys.meta_path.insert(0, InTheMiddle())
with sw.Run() as run:
    sw.record_usage("gpt-5-mini", input_tokens=1_000_000)
    assert asked
    sw.record_usage("gpt-5-mini", input_tokens=1_000_000)
gc.collect()
print(run.total.calls, run.total.unpriced_calls, run.total.cost_usd > 0, gc.isenabled(), len(asked))
"""

COLLECTS = """
import gc
import sys
import stepwarden as sw

made, ended = [], []


class Spends:
    def __init__(self):
        self.itself = self
        made.append(1)

    def __del__(self):
        ended.append(1)
        sw.record_usage("gpt-5-mini", input_tokens=1_000_000)


class InTheMiddle:
    def find_spec(self, name, path, target=None):
        if name.startswith("genai_prices") and "genai_prices.data" in sys.modules:  # which is half imported then
            Spends()


sys.meta_path.insert(0, InTheMiddle())
gc.set_threshold(1, 1, 1)
{before}
with sw.Run() as run:
    sw.record_usage("gpt-5-mini", input_tokens=1_000_000)
    collects = gc.isenabled()
    gc.collect()
    assert 0 < len(made) == len(ended)
print(run.total.calls - len(made), run.total.unpriced_calls, collects)
"""


def run_script(source):
    """Run a program of its own, in which nothing was imported yet, and return what it printed."""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.split()


def test_a_signal_handler_in_the_middle_of_the_import_is_unpriced():
    """What a signal handler records while the list is imported counts as unpriced, and only that; later calls do not."""
    act = 'sw.record_usage("gpt-5-mini", input_tokens=1_000_000)'
    calls, unpriced, is_priced, collects, asked = run_script(ASK.format(act=act))
    assert (int(calls), int(unpriced)) == (2 + int(asked), int(asked))
    assert (is_priced, collects) == ("True", "True")


@pytest.mark.parametrize("before", ["gc.enable()", "gc.disable()"])
def test_a_finaliser_does_not_meet_a_half_imported_list(before):
    """Finalisers that record are priced like everybody else: none runs while the list is imported."""
    assert run_script(COLLECTS.format(before=before)) == ["1", "0", str(before == "gc.enable()")]
