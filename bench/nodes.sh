#!/usr/bin/env bash
# Two or more nodes on one machine: network namespaces joined by links of a given rate, an equal share of the machine's GPUs for each.
#
#   bench/nodes.sh [OPTIONS] -- COMMAND ARGS...    COMMAND once a rank, as torchrun would start it
#   bench/nodes.sh --test [OPTIONS]                only measure the link; one JSON line
#
#   --nodes N         how many (default 2). Two are joined directly, more by a switch that sends to no node faster than the rate
#   --per-node G      ranks of a node (default 1); rank r is local rank r % G of node r / G
#   --gpus N          GPUs of the machine (default: as many as nvidia-smi lists); with none, CUDA_VISIBLE_DEVICES is left alone
#   --rate RATE       of each node, each way, as tc writes it (default 25gbit)
#   --burst SIZE      of tc tbf; default: the smallest from 128kb to 1mb (at most 10gbit: 16kb to 256kb) that reaches 95 % of the rate, as
#                     tried now, or, if none does, the one that carries most. Given, the link is not measured
#   --patience S      seconds that other ranks get once a rank has failed (default 60)
#
# The link from node 0 to node 1 is measured by bench/link.py, and one that is not shaped (1 MiB after 10 ms of silence in less than
# 0.9 x 1 MiB / rate) is an error. A rank finds RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, NODE_RANK, MASTER_ADDR, MASTER_PORT,
# NCCL_HOSTID, NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME and, of its node, the GPUs in CUDA_VISIBLE_DEVICES and a host name of its own. Output is
# the ranks' own; the exit code is that of the rank that failed first, or 0. At the end, after a failure and after Ctrl-C too, nothing stays.
# Needs root, iproute2, util-linux, python3; builds on tools/wire.sh.
set -u

here=$(cd "$(dirname "$0")" && pwd)
wire=$here/../tools/wire.sh
rate=25gbit burst='' nodes=2 per_node=1 gpus='' patience=60 only_test=0
name=$$ pids=() interrupted=0 link_port=29411

say() { printf 'nodes: %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }
address() { echo "10.77.0.$(($1 + 1))"; }    # NODE
in_node() { local node=$1; shift; ip netns exec "grace-$name-$node" "$@"; }

options() {
    while [ $# -gt 0 ]; do
        case $1 in
            --rate) rate=${2:?} ; shift 2 ;;
            --burst) burst=${2:?} ; shift 2 ;;
            --nodes) nodes=${2:?} ; shift 2 ;;
            --per-node) per_node=${2:?} ; shift 2 ;;
            --gpus) gpus=${2:?} ; shift 2 ;;
            --patience) patience=${2:?} ; shift 2 ;;
            --test) only_test=1 ; shift ;;
            -h|--help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0" ; exit 0 ;;
            --) shift ; break ;;
            -*) die "unknown option $1 (--help)" ;;
            *) break ;;
        esac
    done
    command=("$@")
    [[ $nodes =~ ^([2-9]|[1-9][0-9])$ ]] || die "--nodes: expected a number from 2 to 99, found '$nodes'"
    [[ $per_node =~ ^[1-9][0-9]*$ ]] || die "--per-node: expected a number from 1, found '$per_node'"
    [ -n "$gpus" ] || gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ')
    [[ $gpus =~ ^[0-9]+$ ]] || die "--gpus: expected a number, found '$gpus'"
    [ "$gpus" -eq 0 ] || [ "$gpus" -ge $((nodes * per_node)) ] || die "$nodes nodes of $per_node ranks need $((nodes * per_node)) GPUs, here are $gpus"
    [ $only_test -eq 1 ] || [ ${#command[@]} -gt 0 ] || die "no command given (--help)"
}

# Ends in every case: `wire.sh down` kills what is left in the namespaces.
# shellcheck disable=SC2317  # it is a trap
clean() {
    trap '' INT TERM HUP
    [ ${#pids[@]} -eq 0 ] || kill -TERM "${pids[@]}" 2>/dev/null
    "$wire" down "$name"
}

# ---- the link ----

measured() { sed -n "s/.*\"$1\": \([^,}]*\).*/\1/p" <<<"$2"; }    # NAME LINE
more() { awk "BEGIN { exit !($1 >= $2) }"; }

bursts() {
    case $rate in *gbit) [ "${rate%%[.g]*}" -gt 10 ] && { echo 128kb 192kb 256kb 512kb 1mb; return; } ;; esac
    echo 16kb 32kb 64kb 128kb 256kb
}

links() { "$wire" "$1" --nodes "$nodes" --rate "$rate" --burst "$2" "$name" || exit 2; }    # up or shape, BURST

# The smallest burst that fills the link, else, said aloud, the one that carried most; its line of numbers is left in $line.
measure_link() {
    local server best=0 candidate this
    in_node 1 python3 "$here/link.py" serve $link_port & server=$!
    for candidate in $(bursts); do
        links shape "$candidate"
        this=$(in_node 0 python3 "$here/link.py" measure "$(address 1)" $link_port "$rate" "$candidate") || die "the link could not be measured"
        say "burst $candidate: $(measured of_rate "$this") of $rate"
        if more "$(measured of_rate "$this")" "$best"; then best=$(measured of_rate "$this") line=$this burst=$candidate; fi
        if more "$best" 0.95; then break; fi
    done
    kill $server
    wait $server 2>/dev/null
    more "$best" 0.95 || say "no burst reaches 95 % of $rate on this machine, now: $burst carries $best"
    links shape "$burst"
}

check_shape() {
    [ "$(measured shaped "$line")" = true ] ||
        die "the link is not shaped: 1 MiB after silence took $(measured mib_us "$line") us, at $rate it is $(measured mib_us_at_rate "$line")"
}

set_up_link() {
    "$wire" sweep
    links up "${burst:-256kb}"
    [ -n "$burst" ] || measure_link
}

# ---- ranks ----

gpus_of() {  # NODE: its share, as a list
    local each=$((gpus / nodes))
    seq -s, $(($1 * each)) $(($1 * each + each - 1))
}

start_rank() {  # RANK PORT
    local node=$(($1 / per_node)) visible=()
    [ "$gpus" -eq 0 ] || visible=("CUDA_VISIBLE_DEVICES=$(gpus_of $node)")
    # shellcheck disable=SC2016  # the inner shell's $
    exec ip netns exec "grace-$name-$node" env RANK="$1" WORLD_SIZE=$((nodes * per_node)) LOCAL_RANK=$(($1 % per_node)) LOCAL_WORLD_SIZE="$per_node" NODE_RANK=$node \
        MASTER_ADDR="$(address 0)" MASTER_PORT="$2" NCCL_HOSTID="grace-node-$node" NCCL_SOCKET_IFNAME=wire0 GLOO_SOCKET_IFNAME=wire0 NCCL_IB_DISABLE=1 \
        NCCL_NVLS_ENABLE=0 TORCH_SYMM_MEM_DISABLE_MULTICAST=1 NVSHMEM_DISABLE_NVLS=1 NCCL_SOCKET_NTHREADS="${NCCL_SOCKET_NTHREADS:-4}" \
        NCCL_NSOCKS_PERTHREAD="${NCCL_NSOCKS_PERTHREAD:-4}" "${visible[@]}" \
        unshare --uts bash -c 'echo "grace-node-$NODE_RANK" >/proc/sys/kernel/hostname; exec "$@"' bash "${command[@]}"
}

# The first failure starts the patience with the others; who outlasts it is told to end, and 3 seconds later is not asked any more.
run_ranks() {
    local rank rc code=0 end='' port=$((29500 + RANDOM % 1000))
    say "$nodes nodes x $per_node ranks, $rate each way, burst $burst"
    for ((rank = 0; rank < nodes * per_node; rank++)); do
        start_rank "$rank" "$port" & pids+=($!)
    done
    while [ ${#pids[@]} -gt 0 ] && [ $interrupted -eq 0 ]; do
        sleep 0.1
        for rank in "${!pids[@]}"; do
            if kill -0 "${pids[rank]}" 2>/dev/null; then continue; fi
            wait "${pids[rank]}"
            rc=$?
            unset "pids[rank]"
            if [ $rc -ne 0 ] && [ $code -eq 0 ]; then code=$rc end=$((SECONDS + patience)); fi
        done
        if [ -z "$end" ] || [ ${#pids[@]} -eq 0 ]; then continue; fi
        if [ "$SECONDS" -ge "$end" ]; then kill -TERM "${pids[@]}" 2>/dev/null; fi
        if [ "$SECONDS" -ge $((end + 3)) ]; then break; fi
    done
    [ $interrupted -eq 0 ] || code=143
    return $code
}

main() {
    options "$@"
    [ "$(id -u)" = 0 ] || die "network namespaces need root"
    for tool in ip tc unshare python3; do command -v $tool >/dev/null || die "$tool is missing (Debian: iproute2, util-linux, python3)"; done
    trap 'interrupted=1; [ ${#pids[@]} -eq 0 ] || kill -TERM "${pids[@]}" 2>/dev/null' INT TERM HUP
    trap clean EXIT
    set_up_link
    [ $interrupted -eq 0 ] || exit 143
    if [ $only_test -eq 1 ]; then
        [ -n "${line:-}" ] || die "--test measures: leave --burst out"
        printf '%s\n' "$line"
        check_shape
        return
    fi
    [ -z "${line:-}" ] || check_shape
    run_ranks
}

main "$@"; exit
