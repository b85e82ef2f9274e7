"""The size check counts what the design calls a line of code, and objects to what is too long."""

from pathlib import Path

import pytest

from tools import check_size

MODULE = '''\
"""A docstring
of two lines."""

# a comment
import os  # code, with a comment


class Thing:
    """A docstring."""

    text = """code
    over two lines"""

    async def method(self):
        """A docstring."""
        return (
            os.name,

            # a comment inside an expression
        )
'''


def test_blank_lines_comments_and_docstrings_are_not_code():
    """Only lines that hold code count; a string that is a value is code, a docstring is not."""
    assert check_size.count_code_lines(MODULE) == 8


def test_a_file_that_is_too_long_is_named(monkeypatch, tmp_path, capsys):
    """A file over the limit fails the check, whatever it is filled with."""
    monkeypatch.chdir(tmp_path)
    Path("src").mkdir()
    Path("src/long.py").write_text("#\n" * (check_size.MAX_FILE_LINES + 1), encoding="utf-8")

    assert check_size.main() == 1
    assert "src/long.py has 401 lines" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "status"),
    [(check_size.MAX_CODE_LINES[check_size.CORE], 0), (check_size.MAX_CODE_LINES[check_size.CORE] + 1, 1)],
)
def test_the_core_has_a_limit(lines, status, monkeypatch, tmp_path):
    """The core may be as large as it is now, summed over its files, and not a line larger."""
    monkeypatch.chdir(tmp_path)
    check_size.CORE.mkdir(parents=True)
    for number in range(0, lines, 400):
        part = "x = 1\n" * min(400, lines - number)
        (check_size.CORE / f"part_{number}.py").write_text(part, encoding="utf-8")

    assert check_size.main() == status
