#!/bin/sh
# Nodes on one machine: network namespaces joined by links whose rate is limited in both directions.
#
#   tools/wire.sh run [--rate 1gbit] [--burst 128kb] [--per-node 2] -- PROGRAM ARGS...     under mpirun, on two nodes
#   tools/wire.sh up [--rate ...] [--burst ...] [--nodes 2] NAME    build the namespaces grace-NAME-0, grace-NAME-1, ... and leave them
#   tools/wire.sh shape [the same] NAME                             give their links another rate and burst
#   tools/wire.sh down NAME                                         remove them
#   tools/wire.sh sweep                                             remove what runs that died have left
#
# Two nodes share a veth pair; each end limits what it sends. More nodes hang on a bridge in a namespace of its own, grace-NAME-switch, which limits what it
# sends to each of them as well: no node sends or receives faster than the rate, whoever it talks with, and any two have the link that two alone have.
#
# `run` starts mpirun in the first namespace; its launch agent enters the second. Each namespace has its own host name, because Open MPI
# tells nodes apart by it (ranks of one node share memory, others must use the wire). Addresses exist inside the namespaces only.
# Burst: 128kb is the smallest that fills 1gbit (payload one way: 16kb 746, 32kb 849, 64kb 910, 128kb 960 Mbit/s of the 957 that headers
# leave; ranks_wire_prog measures it). btl_tcp_flags without put: Open MPI's put protocol asks for the data of one direction behind the data
# of the other, and both ways at once get half of the rate (100mbit: 50 with, 92 to 96 Mbit/s without). A bounded btl_tcp_sndbuf for the same
# reason: the kernel's own grows to take a whole message, and the answer to the other direction waits behind it (49 to 97 without, 76 to 95 with).
# Needs root, iproute2 (ip, tc) and util-linux (unshare).
set -u

rate=1gbit burst=128kb nodes=2 per_node=2 id=

die() { echo "wire: $*" >&2; exit 2; }

need_root() {
    [ "$(id -u)" = 0 ] || die "network namespaces need root"
    for tool in ip tc unshare; do
        command -v $tool >/dev/null || die "$tool is missing (Debian: iproute2, util-linux)"
    done
}

all_nodes() { seq 0 $((nodes - 1)); }

# Everything still running inside ends with the namespaces.
down() {
    ip netns list 2>/dev/null | sed -nE "s/^(grace-$1-([0-9]+|switch))( .*)?\$/\1/p" | while read -r namespace; do
        ip netns pids "$namespace" 2>/dev/null | xargs -r kill -9 2>/dev/null
        ip netns del "$namespace" 2>/dev/null
    done
    rm -rf "${TMPDIR:-/tmp}/grace-wire-$1"
}

# A run is named after its process: no process, no run.
sweep() {
    ip netns list 2>/dev/null | sed -nE 's/^grace-([0-9]+)-([0-9]+|switch)( .*)?$/\1/p' | sort -u | while read -r pid; do
        [ -d "/proc/$pid" ] || { echo "wire: removing what run $pid left" >&2; down "$pid"; }
    done
}

# reno, because it is everywhere and fills the link both ways at once; another host default (bbr) reaches half of it here.
setup_end() {   # namespace, address
    ip netns exec "$1" sh -c 'echo reno > /proc/sys/net/ipv4/tcp_congestion_control' && ip -n "$1" link set lo up && ip -n "$1" address add "$2/24" dev wire0 &&
        ip -n "$1" link set wire0 up
}

limit() { tc -n "$1" qdisc replace dev "$2" root tbf rate "$rate" burst "$burst" latency 50ms; }    # namespace, device

shape() {
    for node in $(all_nodes); do
        limit "grace-$1-$node" wire0 || die "tc does not take rate $rate, burst $burst"
        [ "$nodes" -eq 2 ] || limit "grace-$1-switch" "wire$node" || die "tc does not take rate $rate, burst $burst"
    done
}

# A fresh end carries rows at once, but says so a little later: until then some programs (NCCL) take it for dead. A bridge waits for that.
wait_for_link() {   # namespace, device, what it has to say
    n=0
    until ip -d -n "$1" link show "$2" | grep -q "$3"; do
        n=$((n + 1))
        [ $n -lt 100 ] || die "the link $2 of $1 does not come up"
        sleep 0.05
    done
}

# A day until it forgets who is where: what is for a node it does not know goes to all, at the cost of their links.
plug_into_switch() {
    switch=grace-$1-switch
    { ip netns add "$switch" && ip -n "$switch" link add switch type bridge ageing_time 8640000 && ip -n "$switch" link set switch up; } ||
        die "cannot create a bridge"
    for node in $(all_nodes); do
        { ip -n "grace-$1-$node" link add wire0 type veth peer name "wire$node" netns "$switch" && ip -n "$switch" link set "wire$node" master switch up; } ||
            die "cannot create the link of node $node"
    done
}

up() {
    for node in $(all_nodes); do ip netns add "grace-$1-$node" || die "cannot create network namespaces here"; done
    if [ "$nodes" -eq 2 ]; then
        ip -n "grace-$1-0" link add wire0 type veth peer name wire0 netns "grace-$1-1" || die "cannot create a veth pair"
    else
        plug_into_switch "$1"
    fi
    for node in $(all_nodes); do setup_end "grace-$1-$node" "10.77.0.$((node + 1))" || die "cannot set up the link of node $node"; done
    shape "$1"
    for node in $(all_nodes); do
        wait_for_link "grace-$1-$node" wire0 'state UP'
        [ "$nodes" -eq 2 ] || wait_for_link "grace-$1-switch" "wire$node" 'state forwarding'
    done
}

# enter.sh I COMMAND...: in namespace I with host name grace-node-I, and names that resolve without a server.
write_agent() {
    printf '127.0.0.1 localhost\n10.77.0.1 grace-node-0\n10.77.0.2 grace-node-1\n' > "$work/hosts"
    cat > "$work/enter.sh" <<END
#!/bin/sh
node=\$1
shift
exec ip netns exec grace-$id-\$node unshare --uts --mount sh -c 'hostname grace-node-'\$node'; mount --bind $work/hosts /etc/hosts; "\$@"' sh "\$@"
END
    cat > "$work/agent.sh" <<END
#!/bin/sh
# mpirun calls: agent.sh HOST COMMAND AS A SHELL WOULD READ IT
host=\$1
shift
exec "$work/enter.sh" "\${host#grace-node-}" sh -c "\$*"
END
    chmod +x "$work/enter.sh" "$work/agent.sh"
}

# mpirun in the background, so that a signal reaches us while it runs.
run() {
    id=$$ work=${TMPDIR:-/tmp}/grace-wire-$$ child=
    trap '[ -z "$child" ] || kill -TERM $child 2>/dev/null; interrupted=1' INT TERM HUP
    trap 'down $id' EXIT
    sweep
    mkdir -m 700 "$work" || die "cannot make a directory for the launch agent"
    up "$id"
    write_agent
    echo "wire: 2 nodes x $per_node ranks, $rate each way, burst $burst" >&2
    [ -z "${interrupted:-}" ] || exit 143
    # shellcheck disable=SC2086  # an empty GRACE_MPIRUN_QUIET is no argument
    "$work/enter.sh" 0 mpirun ${GRACE_MPIRUN_QUIET--q} --allow-run-as-root --host "grace-node-0:$per_node,grace-node-1:$per_node" -np $((2 * per_node)) \
        --map-by slot --mca orte_tmpdir_base "$work" --mca plm rsh --mca plm_rsh_agent "$work/agent.sh" --mca btl_tcp_if_include wire0 --mca oob_tcp_if_include wire0 \
        --mca btl self,vader,tcp --mca btl_tcp_flags send,inplace --mca btl_tcp_sndbuf 262144 \
        --mca pml ob1 "$@" <&0 &
    child=$!
    wait $child
    code=$?
    [ -z "${interrupted:-}" ] || { wait $child; code=143; }
    exit $code
}

command=${1:-help}
[ $# -eq 0 ] || shift
while [ $# -gt 0 ]; do
    case $1 in
        --rate) rate=${2:?} ; shift 2 ;;
        --burst) burst=${2:?} ; shift 2 ;;
        --nodes) nodes=${2:?} ; shift 2 ;;
        --per-node) per_node=${2:?} ; shift 2 ;;
        --) shift ; break ;;
        -*) die "unknown option $1 (see the head of $0)" ;;
        *) break ;;
    esac
done
case $per_node in *[!0-9]*|''|0) die "--per-node: expected a number from 1, found '$per_node'" ;; esac
case $nodes in [2-9]|[1-9][0-9]) ;; *) die "--nodes: expected a number from 2 to 99, found '$nodes'" ;; esac

case $command in
    run)   [ $# -gt 0 ] || die "run: no program given" ; [ "$nodes" = 2 ] || die "run: a wire joins 2 nodes, found $nodes" ; need_root ; run "$@" ;;
    up)    [ $# -eq 1 ] || die "up: expected one name" ; need_root ; up "$1" ;;
    shape) [ $# -eq 1 ] || die "shape: expected one name" ; need_root ; shape "$1" ;;
    down)  [ $# -eq 1 ] || die "down: expected one name" ; need_root ; down "$1" ;;
    sweep) need_root ; sweep ;;
    help|-h|--help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0" ;;
    *)     die "unknown command '$command' (run, up, shape, down, sweep)" ;;
esac
