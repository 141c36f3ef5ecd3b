#!/bin/sh
# Judge kernels in CI: report, summary, annotations and badge are there whatever fails; the first bad code is the exit code.
#
#   PABENCH_OUT=pabench-ci ci.sh --backend my_kernel.py:decode --device emulated
#
# Arguments are options of `pabench conformance`.  From the environment:
#   PABENCH_OUT     folder for everything; default pabench-ci
#   PABENCH_SWEEP   options of a sweep besides, such as "--page-sizes 8,16 --checked"; default none
#   PABENCH_BASE    folder of an earlier PABENCH_OUT: what became worse in verdicts and counted figures fails
#   PABENCH         the program; default pabench
set -u
out=${PABENCH_OUT:-pabench-ci} base=${PABENCH_BASE:-} code=0

pabench() { command ${PABENCH:-pabench} "$@"; }
first() { [ "$code" -ne 0 ] || code=$1; }

mkdir -p "$out" || exit 7
pabench conformance "$@" --overwrite --out "$out/conformance" --junit "$out/junit.xml" || first $?
if [ -n "${PABENCH_SWEEP:-}" ]; then
    set -f # split at spaces, and nothing else
    # shellcheck disable=SC2086
    pabench sweep $PABENCH_SWEEP --overwrite --out "$out/sweep" || first $?
    set +f
fi

rm -f "$out"/compare-*.md
set --
for run in conformance sweep; do
    [ -f "$out/$run/run.json" ] || continue
    set -- "$@" "$out/$run"
    [ -n "$base" ] || continue
    if [ -f "$base/$run/run.json" ]; then
        pabench compare "$base/$run" "$out/$run" --only verdicts,counted --markdown "$out/compare-$run.md" || first $?
    else
        echo "Nothing to compare this $run run with: $base/$run has no run.json." | tee "$out/compare-$run.md" >&2
    fi
done
if [ $# -eq 0 ]; then
    echo "pabench: no run was begun, so there is no report" >&2
    exit "$code"
fi

pabench report "$@" --out "$out/report.html" || first $?
pabench export "$@" --to badge --out "$out/badge.json" || first $?
pabench export "$@" --to summary --out "$out/summary.md" || first $?
for text in "$out"/compare-*.md; do
    [ ! -f "$text" ] || cat "$text" >> "$out/summary.md"
done
[ -z "${GITHUB_STEP_SUMMARY:-}" ] || cat "$out/summary.md" >> "$GITHUB_STEP_SUMMARY"
[ -z "${GITHUB_ACTIONS:-}" ] || pabench export "$@" --to annotations || first $?
exit "$code"
