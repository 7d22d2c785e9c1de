#!/usr/bin/env bash
# nodes_test.sh NODES_SH: what ranks of two nodes find, whose exit code counts, that nothing stays. Skipped (77) without root, ip, tc, or the right to make
# namespaces.
set -u
nodes=$1
skip() { echo "skipped: $*"; exit 77; }
fail() { echo "FAILED: $*"; exit 1; }
[ "$(id -u)" = 0 ] || skip "network namespaces need root"
for tool in ip tc unshare python3; do command -v $tool >/dev/null || skip "$tool is missing"; done
options=(--rate 100mbit --burst 16kb --gpus 4 --per-node 2 --patience 1)
run() { "$nodes" "${options[@]}" "$@" 2>/dev/null; }
run -- true || skip "no namespaces here"

# Each rank knows its place, sees its node's half of the GPUs, and has its node's name and address.
# shellcheck disable=SC2016  # the ranks' $
found=$(run -- bash -c 'sleep 0.$RANK; echo "$RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE $NODE_RANK $CUDA_VISIBLE_DEVICES $(hostname) $NCCL_HOSTID $MASTER_ADDR" \
    "$(ip -br -4 address show $NCCL_SOCKET_IFNAME | grep -o "10[0-9.]*")"') || fail "ranks that end well"
for ((r = 0; r < 4; r++)); do
    n=$((r / 2)) halves=("0,1" "2,3")
    echo "$r/4 $((r % 2))/2 $n ${halves[n]} grace-node-$n grace-node-$n 10.77.0.1 10.77.0.$((n + 1))"
done | diff - <(echo "$found" | sort) || fail "what the ranks find"

# The first failure's code, and the others do not outlast their patience.
# shellcheck disable=SC2016
run -- bash -c '[ $RANK = 2 ] && exit 7; trap "" TERM; exec sleep 60'
[ $? = 7 ] || fail "expected the code of the rank that failed"

# Interrupted in the middle: nothing stays.
"$nodes" "${options[@]}" -- sleep 60 2>/dev/null & pid=$!
sleep 1
kill -TERM $pid
wait $pid && fail "an interrupted run ended well"
"$nodes" --gpus 3 --per-node 2 -- true 2>/dev/null && fail "3 GPUs for 4 ranks"
ip netns list | grep -q "^grace-$pid-" && fail "namespaces stayed"
echo "ok: places, GPUs, exit codes, nothing left"
