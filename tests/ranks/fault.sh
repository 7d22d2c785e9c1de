#!/bin/sh
# fault.sh MODE MPIRUN FAULT_PROG: four ranks, of which rank 1 goes wrong; the job must end soon, with a failure, and say why.
mode=$1 mpirun=$2 prog=$3
out=$(mktemp) || exit 1
trap 'rm -f "$out"' EXIT
export OMPI_MCA_odls_base_sigkill_timeout=4     # from SIGTERM to SIGKILL; by itself it is one second, of which a busy machine may give a rank too little
limit=240 deadline=300              # on a machine busy with other tests; by itself it takes a second
[ "$mode" = late ] && deadline=2

timeout -k 5 $limit "$mpirun" -q -np 4 "$prog" "$mode" 1 $deadline > "$out" 2>&1
code=$?
cat "$out"

fail() { echo "FAILED: $*"; exit 1; }
says() { grep -Eq "$1" "$out" || fail "nobody said: $1"; }

[ $code -ne 124 ] || fail "still running after $limit s"
[ $code -ne 0 ] || fail "the job ended well"
case $mode in
    late)  says '^rank [023]: dispatch of layer 5: 8 bytes from rank 1 missing after 2 s' ;;
    kill)  says '^grace: rank [023] of 4: ended by SIGTERM in dispatch of layer 5, waiting for rank 1$' ;;
    fail)  says '^rank 1: a number went bad$' ; says '^grace: rank [023] of 4: ended by SIGTERM in dispatch of layer 5, waiting for rank 1$' ;;
    agree) [ "$(grep -c '^rank 1: shard 7 is not there$' "$out")" = 4 ] || fail "not every rank said why" ;;
    leak)  says 'LeakSanitizer: detected memory leaks' ; says 'leak_on_purpose' ; says '1234 byte' ;;
esac
echo "ended with code $code, as it should"
