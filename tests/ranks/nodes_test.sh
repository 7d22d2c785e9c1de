#!/usr/bin/env bash
# nodes_test.sh NODES_SH: what ranks of two and of four nodes find, that no node sends or receives faster than its link, whose exit code counts, that nothing stays.
# Skipped (77) without root, ip, tc, or the right to make namespaces.
set -u
nodes=$1 crossing=$(dirname "$0")/nodes_crossing.py
skip() { echo "skipped: $*"; exit 77; }
fail() { echo "FAILED: $*"; exit 1; }
[ "$(id -u)" = 0 ] || skip "network namespaces need root"
for tool in ip tc unshare python3; do command -v $tool >/dev/null || skip "$tool is missing"; done
run() { "$nodes" --rate 100mbit --burst 16kb --gpus 4 --patience 1 "$@" 2>/dev/null; }
run -- true || skip "no namespaces here"

# Each rank knows its place, sees its node's share of the GPUs, and has its node's name and address.
for n in 2 4; do
    # shellcheck disable=SC2016  # the ranks' $
    found=$(run --nodes $n --per-node $((4 / n)) -- bash -c 'sleep 0.$RANK
        echo "$RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE $NODE_RANK $CUDA_VISIBLE_DEVICES $(hostname) $NCCL_HOSTID $MASTER_ADDR" \
        "$(ip -br -4 address show $NCCL_SOCKET_IFNAME | grep -o "10[0-9.]*")"') || fail "ranks of $n nodes that end well"
    for ((r = 0; r < 4; r++)); do
        per_node=$((4 / n)) node=$((r * n / 4))
        echo "$r/4 $((r % per_node))/$per_node $node $(seq -s, $((node * per_node)) $((node * per_node + per_node - 1))) grace-node-$node grace-node-$node" \
            "10.77.0.1 10.77.0.$((node + 1))"
    done | diff - <(echo "$found" | sort) || fail "what the ranks of $n nodes find"
done

# Each of four nodes hears from all others at once, and speaks to all: neither faster than its own link, as with the one other node of two.
for n in 2 4; do
    for ((hub = 0; hub < n; hub++)); do
        HUB=$hub "$nodes" --nodes $n --rate 20mbit --burst 16kb --gpus 0 --patience 1 -- python3 "$crossing" 20e6 16384 || fail "node $hub of $n and the others"
    done
done

# The first failure's code, and the others do not outlast their patience.
# shellcheck disable=SC2016
run --nodes 4 -- bash -c '[ $RANK = 2 ] && exit 7; trap "" TERM; exec sleep 60'
[ $? = 7 ] || fail "expected the code of the rank that failed"

# Interrupted in the middle, when all ranks run: nothing stays. Killed: it goes when the next one starts.
begun=$(mktemp -d) || fail "no folder"
trap 'rm -rf "$begun"' EXIT
for n in 2 4; do
    for signal in TERM KILL; do
        "$nodes" --nodes $n --rate 100mbit --burst 16kb --gpus 0 -- sh -c "touch $begun/\$RANK; exec sleep 60" 2>/dev/null & pid=$!
        until [ "$(find "$begun" -type f | wc -l)" -eq $n ]; do
            kill -0 $pid || fail "a run of $n nodes ended by itself"
            sleep 0.1
        done
        rm "$begun"/*
        ip netns list | grep -q "^grace-$pid-" || fail "no namespaces of the $n nodes of $pid"
        kill -$signal $pid
        wait $pid 2>/dev/null && fail "a run of $n nodes ended well after $signal"
        [ $signal = TERM ] || run -- true || fail "a run after one that was killed"
        ip netns list | grep "^grace-$pid-" && fail "namespaces of $n nodes stayed after $signal"
    done
done
"$nodes" --gpus 3 --per-node 2 -- true 2>/dev/null && fail "3 GPUs for 4 ranks"
"$nodes" --gpus 3 --nodes 4 -- true 2>/dev/null && fail "3 GPUs for 4 nodes"
"$nodes" --gpus 0 --nodes 1 -- true 2>/dev/null && fail "one node"
echo "ok: places, GPUs, both ways at the rate, exit codes, nothing left"
