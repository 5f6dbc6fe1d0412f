#!/bin/sh
# Runs a compiler; what it says goes to the file named first, and to stderr when it fails or warns.
report=$1
shift
"$@" >"$report" 2>&1
status=$?
if [ $status -ne 0 ] || grep -qi 'warning' "$report"; then cat "$report" >&2; fi
exit $status
