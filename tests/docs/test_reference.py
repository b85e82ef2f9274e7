"""The reference has every public name, and what it writes out itself is true."""

import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import stepwarden
import stepwarden.host
import stepwarden.testing

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
DIRECTIVES = re.findall(
    r"^\.\. auto(\w+):: stepwarden\.([\w.]+)(?:\((.*)\))?$",
    "\n".join(page.read_text(encoding="utf-8") for page in sorted(REFERENCE.glob("*.md"))),
    re.MULTILINE,
)


def find(name: str) -> object:
    """Return what the reference calls `stepwarden.<name>`."""
    found: object = stepwarden
    for part in name.split("."):
        if isinstance(found, ModuleType) and not hasattr(found, part):
            importlib.import_module(f"{found.__name__}.{part}")  # a framework's, which is loaded when it is asked for
        found = getattr(found, part)
    return found


def test_every_public_name_has_its_entry():
    """Each name in the `__all__` of the package, `testing` and `host` has one directive in docs/reference/."""
    public = set(stepwarden.__all__) - {"hooks"}
    for module in (stepwarden.testing, stepwarden.host):
        public |= {f"{module.__name__.rpartition('.')[2]}.{name}" for name in module.__all__}
    named = [name for _, name, _ in DIRECTIVES]
    assert public - set(named) == set(), "these need a directive in a page of docs/reference/"
    assert sorted(named) == sorted(set(named)), "these have more than one"


@pytest.mark.parametrize(("kind", "name", "_"), DIRECTIVES, ids=lambda part: part)
def test_an_entry_is_of_the_kind_that_it_says(kind, name, _):
    """Classes, exceptions and functions have the directive that shows them as such."""
    entry = find(name)
    is_error = isinstance(entry, type) and issubclass(entry, BaseException)
    assert kind == ("exception" if is_error else "class" if isinstance(entry, type) else "function")


@pytest.mark.parametrize(
    ("name", "written"), [(name, written) for _, name, written in DIRECTIVES if written], ids=lambda part: part[:20]
)
def test_a_signature_that_is_written_out_is_the_real_one(name, written):
    """Where the reference writes a signature for its readers, it has the parameters that there are, in their order."""
    entry = find(name)
    # A model of pydantic's shows every field that it has inherited; what its constructor names is what it is made of.
    called = entry.__init__ if "__signature__" in vars(entry) else entry
    real = [one for one in inspect.signature(called).parameters if one not in {"self", "function", "options"}]
    assert re.findall(r"(?:^|, )(\w+)=", written) == real


def test_every_error_has_its_cause_and_its_cure():
    """The page on errors has a section for each class of error and warning, with what brings it about and what helps."""
    page = (REFERENCE.parent / "errors.md").read_text(encoding="utf-8")
    heading, *sections = re.split(r"^## (\w+): .*$", page, flags=re.MULTILINE)
    assert "StepwardenError" in heading
    named = dict(zip(sections[::2], sections[1::2], strict=True))
    errors = {name for kind, name, _ in DIRECTIVES if kind == "exception"} - {"StepwardenError"}
    assert set(named) == errors
    assert [name for name, text in named.items() if "**Cure.**" not in text] == []
    assert [name for name in errors if name not in heading and name != "UnscopedCallWarning"] == []
