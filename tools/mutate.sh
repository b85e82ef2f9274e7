#!/usr/bin/env bash
# Try whether tests notice when the rules that everything rests on change; by hand, since it takes half an hour.
#
#   bash tools/mutate.sh            every mutant of the modules below
#   bash tools/mutate.sh '*policy*' those whose name matches; what was tried before is not tried again
#
# It works in a copy under build/mutants. `cd build/mutants && uv run --with mutmut mutmut show NAME` shows one.
set -euo pipefail
cd "$(dirname "$0")/.."

modules=(_boundary _policy _budget _scope)
# Near these rules, and fast: each mutant runs those of them that reach it.
tests=(policy policy_algebra boundaries exception_groups budget_values extend receipts leaving leaf estimates outliving
    recovery mutants holds)

copy=build/mutants
mkdir -p "$copy"
git archive HEAD | tar -x -C "$copy"
{
    printf '\n[tool.mutmut]\nsource_paths = ["src/stepwarden"]\nalso_copy = ["src", "tests", "README.md"]\n'
    printf 'only_mutate = ['
    printf '"src/stepwarden/core/%s.py", ' "${modules[@]}"
    printf ']\npytest_add_cli_args_test_selection = ['
    printf '"tests/core/test_%s.py", ' "${tests[@]}"
    printf ']\n'
} >>"$copy/pyproject.toml"

cd "$copy"
CI=1 nice uv run --all-extras --with 'mutmut>=3.8,<4' mutmut run "$@"
uv run --no-sync --with 'mutmut>=3.8,<4' mutmut results
