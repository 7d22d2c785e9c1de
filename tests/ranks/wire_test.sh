#!/bin/sh
# wire_test.sh WIRE_SH WIRE_PROG TEST_PROG: two real nodes. Skipped (77) without root, ip, tc, or the right to make namespaces.
wire=$1 prog=$2 test_prog=$3
skip() { echo "skipped: $*"; exit 77; }
fail() { echo "FAILED: $*"; exit 1; }
[ "$(id -u)" = 0 ] || skip "network namespaces need root"
for tool in ip tc unshare; do command -v $tool >/dev/null || skip "$tool is missing"; done
"$wire" up --rate 100mbit "test$$" || { "$wire" down "test$$"; skip "no namespaces here"; }
"$wire" down "test$$"

for try in 1 2 3; do         # a machine that is busy with other tests is only slower
    line=$("$wire" run --rate 100mbit --per-node 2 -- "$prog") || fail "no result over the wire"
    echo "$line"
    case $line in *'"nodes":2,"ranks_per_node":2'*) ;; *) fail "expected 2 nodes of 2 ranks" ;; esac
    rate=$(echo "$line" | sed 's/.*"mbit_s_one_way":\([0-9]*\).*/\1/')
    [ "$rate" -le 105 ] || fail "the link is not shaped: $rate Mbit/s over 100mbit"
    [ "$rate" -lt 30 ] || break
    [ $try -lt 3 ] || fail "expected about 95 Mbit/s over a 100mbit link, found $rate"
done

"$wire" run --rate 1gbit --per-node 2 -- "$test_prog" || fail "$test_prog over the wire"
# Over tcp, too: mpirun only starts the processes.
# shellcheck disable=SC2016
"$wire" run --rate 1gbit --per-node 2 -- sh -c 'export RANK="$OMPI_COMM_WORLD_RANK" WORLD_SIZE="$OMPI_COMM_WORLD_SIZE" MASTER_ADDR=grace-node-0 MASTER_PORT=29500
    unset OMPI_COMM_WORLD_RANK; exec "$0"' "$test_prog" || fail "$test_prog over the wire by tcp"

# Interrupted in the middle: nothing stays.
"$wire" run --rate 10mbit --per-node 1 -- "$prog" > /dev/null 2>&1 &
pid=$!
sleep 2
kill -TERM $pid
wait $pid && fail "an interrupted run ended well"
ip netns list | grep "^grace-\($pid\|test$$\)-" && fail "namespaces stayed"
echo "ok: two nodes, shaped, cleaned up"
