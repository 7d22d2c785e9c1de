"""nodes_crossing.py RATE BURST, once on each of several nodes: rank HUB takes from all others at once, then gives to all at once. It fails where either took
less than the bytes need at RATE (bits a second) beyond BURST bytes: a machine that is busy is only slower."""
import os, socket, sys, threading, time

BYTES = 1 << 17
rank, n, hub = (int(os.environ[k]) for k in ("RANK", "WORLD_SIZE", "HUB"))
others = [r for r in range(n) if r != hub]
listener = socket.create_server(("", 29600))


def take(s, left):
    while left > 0:
        got = len(s.recv(min(left, 1 << 16)))
        if not got:
            raise ConnectionError("rank %d: the other end closed, %d bytes are missing" % (rank, left))
        left -= got


def connect(to):
    for _ in range(500):
        try:
            return socket.create_connection(("10.77.0.%d" % (to + 1), 29600), timeout=30)
        except ConnectionRefusedError:
            time.sleep(0.02)
    sys.exit("rank %d does not answer rank %d" % (to, rank))


def taken(s):
    s.sendall(b"?")
    take(s, BYTES)


def given(s):
    s.sendall(bytes(BYTES))
    take(s, 1)


def timed(work, lines):
    start = time.monotonic()
    threads = [threading.Thread(target=work, args=(s,)) for s in lines]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return time.monotonic() - start


if rank == hub:
    lines = [connect(r) for r in others]
    least = 8 * (len(others) * BYTES - int(sys.argv[2])) / float(sys.argv[1])
    for name, seconds in (("took", timed(taken, lines)), ("gave", timed(given, lines))):
        if seconds < least:
            sys.exit("rank %d %s %d x %d bytes in %.3f s, at the rate it is %.3f" % (rank, name, len(others), BYTES, seconds, least))
else:
    line, _ = listener.accept()
    take(line, 1)
    line.sendall(bytes(BYTES))
    take(line, BYTES)
    line.sendall(b"!")
