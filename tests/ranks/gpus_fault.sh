#!/bin/sh
# gpus_fault.sh MODE GRACE MODEL [NODES [BETWEEN]]: two ranks on GPUs, started without mpirun, of which rank 1 goes wrong; rank 0 must end within the deadline
# and say why. NODES 2: each is a node, with rows between them over BETWEEN (grace run --between; auto).
#   kill    rank 1 is killed while it decodes        never   rank 1 is not started        stall   rank 1 is stopped while it decodes
mode=$1 grace=$2 model=$3 nodes=${4:-1} between=${5:-auto}
deadline=5 port=$((20000 + $$ % 20000))
[ -e /dev/nvidiactl ] || { echo "skipped: no GPU here"; exit 77; }
[ "$between" = staged ] || [ "$(nvidia-smi -L | grep -c '^GPU ')" -ge 2 ] || { echo "skipped: ranks that wait in kernels do not share a GPU"; exit 77; }
out=$(mktemp -d) || exit 1
trap 'kill -CONT $second 2>/dev/null; kill -9 $first $second 2>/dev/null; rm -rf "$out"' EXIT
second=
export WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port

start() {   # rank; about a minute of decoding
    RANK=$1 LOCAL_RANK=$1 "$grace" run --device cuda --model "$model" --deadline $deadline --nodes "$nodes" --between "$between" \
        --prompt-tokens 16 --requests 20000 --batch-tokens 64 --kv-tokens 16384 -n 200 --ignore-eos --json > "$out/$1" 2>&1 &
}

fail() { echo "FAILED: $*"; cat "$out"/*; exit 1; }

start 0; first=$!
if [ "$mode" != never ]; then
    start 1; second=$!
    sleep 12
    kill -0 $first 2>/dev/null || fail "rank 0 ended too soon"
fi
begin=$(date +%s)
case $mode in
    kill)  kill -9 $second ;;
    stall) kill -STOP $second ;;
esac
wait $first
code=$?
took=$(($(date +%s) - begin))
cat "$out/0"
[ $code -ne 0 ] || fail "rank 0 ended well"
[ $took -le $((2 * deadline + 3)) ] || fail "rank 0 took $took s"
grep -q 'rank 1' "$out/0" || fail "nobody named rank 1"
echo "ended after $took s with code $code, as it should"
