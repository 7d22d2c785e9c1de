#!/bin/sh
# stalled_link.sh NODES_SH GRACE MODEL [DEVICE [BETWEEN]]: two nodes decode over a link, which then slows down to 1 kbit/s; both must end within the deadline
# and say what is missing from whom. Skipped (77) without root, ip, tc, the right to make namespaces, or, for cuda, two GPUs.
nodes=$1 grace=$2 model=$3 device=${4:-cpu} between=${5:-auto}
deadline=4
skip() { echo "skipped: $*"; exit 77; }
fail() { echo "FAILED: $*"; cat "$out"; exit 1; }
[ "$(id -u)" = 0 ] || skip "network namespaces need root"
for tool in ip tc unshare python3; do command -v $tool >/dev/null || skip "$tool is missing"; done
ip netns add "grace-try-$$" 2>/dev/null || skip "no namespaces here"
ip netns del "grace-try-$$"
[ "$device" = cpu ] || [ "$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ')" -ge 2 ] || skip "two GPUs are needed"
out=$(mktemp) || exit 1
job=
trap '[ -z "$job" ] || kill -TERM $job 2>/dev/null; rm -f "$out"' EXIT

# Its namespaces are named after its process. Minutes of decoding.
requests=4000
on_gpus=
[ "$device" = cpu ] || requests=60000 on_gpus="--between $between"
# shellcheck disable=SC2086
"$nodes" --rate 1gbit --burst 128kb --patience 20 -- "$grace" run --device "$device" $on_gpus --model "$model" --deadline $deadline --threads 1 \
    --prompt-tokens 16 --requests $requests --batch-tokens 64 --kv-tokens 16384 -n 100 --ignore-eos --json > "$out" 2>&1 &
job=$!
# In the middle is when rows have crossed for a while; on GPUs what comes before takes seconds, and bytes.
[ "$device" = cpu ] || sleep 15
sent=0
until [ "${sent:-0}" -ge 3000000 ]; do
    kill -0 $job 2>/dev/null || fail "the ranks ended too soon"
    sleep 0.2
    sent=$(ip netns exec "grace-$job-0" cat /sys/class/net/wire0/statistics/tx_bytes 2>/dev/null)
done
begin=$(date +%s)
for node in 0 1; do
    tc -n "grace-$job-$node" qdisc replace dev wire0 root tbf rate 1kbit burst 1600 latency 50ms || fail "tc does not take 1 kbit/s"
done
wait $job
code=$?
job=
took=$(($(date +%s) - begin))
grep -v '^nodes: ' "$out"
[ $code -ne 0 ] || fail "the ranks ended well"
[ $took -le $((2 * deadline + 30)) ] || fail "it took $took s"
grep -qE 'rank 0.*rank 1|rank 1.*rank 0' "$out" || fail "nobody said what was missing from whom"
echo "ended after $took s with code $code, as it should"
