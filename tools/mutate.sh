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
    recovery mutants holds host scope_properties public_face)

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

# A few examples notice nearly all of them; what survives here is worth a try with all.
cat >>"$copy/tests/conftest.py" <<'PYTHON'

settings.register_profile("mutants", settings.get_profile("ci"), max_examples=8, print_blob=False)
settings.load_profile("mutants")
PYTHON

cd "$copy"
# mutmut leaves alone what is decorated, so each property becomes a method, and a property made from it.
python3 - "${modules[@]/#/src/stepwarden/core/}" <<'PYTHON'
import ast, pathlib, sys
for path in (pathlib.Path(name + ".py") for name in sys.argv[1:]):
    lines = path.read_text().split("\n")
    for node in reversed([node for node in ast.walk(ast.parse("\n".join(lines))) if isinstance(node, ast.FunctionDef)]):
        if [ast.unparse(decorator) for decorator in node.decorator_list] == ["property"]:
            lines.insert(node.end_lineno, f"    {node.name} = property(get_{node.name})")
            lines[node.lineno - 1] = lines[node.lineno - 1].replace(f"def {node.name}(", f"def get_{node.name}(")
            del lines[node.lineno - 2]
    path.write_text("\n".join(lines))
PYTHON
CI=1 nice uv run --all-extras --with 'mutmut>=3.8,<4' mutmut run "$@"
uv run --no-sync --with 'mutmut>=3.8,<4' mutmut results
