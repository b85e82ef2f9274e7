"""The examples in our docstrings run, and print what they say."""

import doctest
import importlib
import pkgutil

import pytest

import stepwarden


def modules() -> list[str]:
    """Name every module of the package; `__main__` is a program, not something to import."""
    found = pkgutil.walk_packages(stepwarden.__path__, "stepwarden.")
    return ["stepwarden", *(module.name for module in found if not module.name.endswith("__main__"))]


@pytest.mark.parametrize("name", modules())
def test_docstring_examples_run(name, capsys):
    """Every `>>>` example of the module gives the output that is written below it."""
    module = importlib.import_module(name)

    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)

    assert result.failed == 0, capsys.readouterr().out
