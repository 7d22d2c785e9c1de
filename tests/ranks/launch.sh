#!/bin/sh
# launch.sh LAUNCH_PROG: --ranks starts a job, passes arguments, stdin, signals and the exit code on, and says what went wrong.
prog=$1
export OMPI_MCA_odls_base_sigkill_timeout=4     # from SIGTERM to SIGKILL; by itself it is one second, of which a busy machine may give a rank too little
out=$(mktemp) || exit 1
trap 'rm -f "$out"' EXIT
fail() { cat "$out"; echo "FAILED: $*"; exit 1; }
says() { grep -q -e "$1" "$out" || fail "expected: $1"; }
runs() { expected=$1; shift; timeout -k 5 240 "$prog" "$@" > "$out" 2>&1; code=$?; [ $code -eq "$expected" ] || fail "$*: exit code $code, not $expected"; }

echo hello | GRACE_LOG=info "$prog" --before x --ranks 2x2 ok > "$out" 2>&1 || fail "a good job failed"
says '^\[--before\]\[x\]\[--ranks\]\[2x2\]\[ok\] nodes: 2 stdin: hello$'
says 'launch: mpirun: 4 ranks, 2 nodes'

runs 137 --ranks 3 kill
says '^grace: a rank was killed by signal 9 (Killed); the job was ended$'
says '^grace: rank [02] of 3: ended by SIGTERM in dispatch of layer 5, waiting for rank 1$'
grep -q -- '----------' "$out" && fail "mpirun printed a banner"

"$prog" --ranks 2 long > "$out" 2>&1 < /dev/null &
pid=$!
sleep 1.5
kill -TERM $pid
wait $pid && fail "an ended job ended well"

for bad in 0 x 2x 2x0 -1 2x2x2 99999999999 1000x1000 ''; do
    runs 1 --ranks "$bad" ok
    says '^ranks: expected '
done
PATH=/nonexistent "$prog" --ranks 2 ok > "$out" 2>&1 && fail "no mpirun, and yet"
says 'openmpi-bin'
runs 1 --ranks 3 --wire 1gbit ok
says '^a wire joins 2 nodes, found 1$'
echo ok
