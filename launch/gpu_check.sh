#!/bin/bash
# The check of a GPU, about eight minutes at most: launch/gpu_check.sh OUT [PART...]
# Every part is a process of its own with a time limit: a crash or a hang stops no other part, and the rows that it had
# written stay. OUT/PART.json: its report; OUT/PART.log: what it printed; OUT/table.md: all reports. Exit code 1 where a
# part failed or took too long. `intvit bench gpu --help` says what the parts are.
set -uo pipefail
if [ -f .venv/bin/activate ]; then source .venv/bin/activate; fi
OUT=${1:?"usage: launch/gpu_check.sh OUT [PART...]"}
shift
declare -A SECONDS_OF=([kernels]=110 [derivations]=90 [runtime]=80 [model]=30 [step]=75 [inference]=65 [ranks]=30)
mkdir -p "$OUT" || exit 1
failed=0
[ $# -gt 0 ] || set -- kernels derivations runtime model step inference ranks
for part in "$@"; do
    timeout --kill-after=5 "${SECONDS_OF[$part]:-60}" python -m intvit.commands bench gpu "$part" --out "$OUT" \
        >"$OUT/$part.log" 2>&1
    code=$?
    echo "$part: exit code $code"
    [ "$code" = 0 ] || failed=1
done
cat "$OUT/table.md"
exit "$failed"
