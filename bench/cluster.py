"""Ranks on one machine for the benchmarks: a process a GPU, as torchrun would start them; several nodes by bench/nodes.sh.  Standard library only."""
import os, re, signal, socket, subprocess, sys, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PATIENCE_S = 20             # that the other ranks get once one has failed
SAFE = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1", "NVSHMEM_DISABLE_NVLS": "1", "PYTHONUNBUFFERED": "1"}


class Layout:
    """NODESxGPUS of a node, such as 2x1. More than one node: they are joined by links."""

    def __init__(s, text):
        a, x, b = text.partition("x")
        if not (x and a.isdigit() and b.isdigit() and int(a) > 0 and int(b) > 0):
            raise ValueError("expected NODESxGPUS such as 2x1, found '%s'" % text)
        s.nodes, s.per_node, s.name = int(a), int(b), text
        s.ranks = s.nodes * s.per_node


class Link:
    """What joins nodes; burst None: nobody has tried yet which one fills it."""

    def __init__(s, rate, burst=None):
        s.rate, s.burst = rate, burst

    def words(s):
        return ["--rate", s.rate] + (["--burst", s.burst] if s.burst else [])


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def of_one_node(layout, words, env):
    """[(command, environment)] of its ranks."""
    base = dict(env, WORLD_SIZE=str(layout.ranks), LOCAL_WORLD_SIZE=str(layout.ranks), NODE_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    if layout.ranks == 1:
        return [(words, dict(env, CUDA_VISIBLE_DEVICES="0"))]
    return [(words, dict(base, RANK=str(r), LOCAL_RANK=str(r))) for r in range(layout.ranks)]


def of_nodes(layout, words, env, link, gpus):
    nodes = [os.path.join(ROOT, "bench", "nodes.sh"), "--nodes", str(layout.nodes), "--per-node", str(layout.per_node), "--gpus", str(gpus),
             "--patience", str(PATIENCE_S)]
    return [(nodes + link.words() + ["--"] + words, env)]


def end(processes):
    """Only those, and what they started: each is a group of its own."""
    for sig, wait in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        for p in processes:
            if p.poll() is None:
                try:
                    os.killpg(p.pid, sig)
                except OSError:
                    pass
        limit = time.time() + wait
        while time.time() < limit and any(p.poll() is None for p in processes):
            time.sleep(0.05)


def wait_all(processes, limit_s):
    """What went wrong, or None. The first failure shortens the others' time."""
    limit, failed = time.time() + limit_s, None
    while True:
        codes = [p.poll() for p in processes]
        bad = [c for c in codes if c]
        if bad and failed is None:
            failed, limit = bad[0], min(limit, time.time() + PATIENCE_S)
        if None not in codes:
            return "exit code %d" % failed if failed else None
        if time.time() > limit:
            end(processes)
            return "exit code %d" % failed if failed else "stopped at its time limit of %.0f s" % limit_s
        time.sleep(0.02)


def under_mpirun(layout, words, link, gpus):
    """The command that starts its ranks with MPI instead, on one node or two; each sees its node's share of the GPUs."""
    if layout.nodes == 1:
        return words + ["--ranks", layout.name]
    own = 'n=$(hostname); n=${n##*-}; export NCCL_HOSTID=node-$n NCCL_SOCKET_IFNAME=wire0; '
    if gpus:
        own += 'export CUDA_VISIBLE_DEVICES=$(seq -s, $((n * %d)) $((n * %d + %d)));' % (gpus // 2, gpus // 2, gpus // 2 - 1)
    wire = [os.path.join(ROOT, "tools", "wire.sh"), "run", "--rate", link.rate, "--burst", link.burst or "256kb", "--per-node", str(layout.per_node), "--"]
    return wire + ["bash", "-c", own + ' exec "$@"', "bash"] + words + ["--nodes", "2"]


def run_ranks(layout, words, limit_s, link=None, gpus=0, env=None, mpirun=False):
    """Runs words once a rank. Returns (output of rank 0, error output of all, what went wrong or None)."""
    threads = {"OMP_NUM_THREADS": str(max(1, os.cpu_count() // layout.ranks)), "OMP_WAIT_POLICY": "passive"}
    env = {**threads, **os.environ, **SAFE, **(env or {})}
    print("+ %s: %s" % (layout.name, " ".join(words)), file=sys.stderr, flush=True)
    if mpirun and layout.ranks > 1:
        return run([(under_mpirun(layout, words, link, gpus), env)], limit_s)
    return run(of_nodes(layout, words, env, link, gpus) if layout.nodes > 1 else of_one_node(layout, words, env), limit_s)


def telling(errors):
    """The first line that is no warning and no part of a trace of calls; else the first."""
    lines = [re.sub(r"^\[rank\d+\]: ?", "", l) for l in errors.splitlines() if l.strip() and not l.startswith(("nodes: ", "wire: "))]
    causes = [l for l in lines if not re.match(r"\s|Traceback |\[W", l) and "warning" not in l.lower()]
    return (causes or lines or [""])[0]


def run(starts, limit_s):
    """(output of the first, error output of all, what went wrong or None)."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        processes = []
        try:
            for i, (command, e) in enumerate(starts):
                processes.append(subprocess.Popen(command, cwd=ROOT, env=e, stdin=subprocess.DEVNULL, stdout=out if i == 0 else subprocess.DEVNULL, stderr=err,
                                                  start_new_session=True))
            wrong = wait_all(processes, limit_s)
        finally:
            end(processes)
        out.seek(0), err.seek(0)
        text, errors = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    cause = telling(errors)
    return text, errors, wrong and ("%s: %s" % (wrong, cause) if cause else wrong)
