"""`import stepwarden` loads nothing that a program has not asked for."""

import json
import os
import subprocess
import sys

LOADED = "import json, sys; {0}; print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"


def loaded_after(statement: str) -> set[str]:
    """Name the top-level modules that a fresh interpreter has loaded after *statement*."""
    # Coverage starts itself in child processes and would count as loaded.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    output = subprocess.run(
        [sys.executable, "-c", LOADED.format(statement)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return set(json.loads(output))


def test_importing_stepwarden_loads_no_third_party_module():
    """No SDK, no price table, no model or telemetry library, no terminal library: each waits for its first use."""
    new = loaded_after("import stepwarden") - loaded_after("pass")

    assert "stepwarden" in new
    assert new - set(sys.stdlib_module_names) == {"stepwarden"}


def test_the_check_sees_a_third_party_module():
    """The test above can fail: an SDK that is imported shows up in what it looks at."""
    assert {"msgspec"} <= loaded_after("import msgspec") - loaded_after("pass") - set(sys.stdlib_module_names)
