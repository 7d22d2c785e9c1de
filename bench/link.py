#!/usr/bin/env python3
"""What a link between two nodes carries: measured by bench/nodes.sh between its namespaces.  Standard library only, Linux.

  link.py serve PORT                    answers until it is ended
  link.py measure HOST PORT RATE BURST  one JSON line; RATE and BURST as tc writes them (25gbit, 256kb)

  gbit_s      payload, one way, while senders always have something to send, after the bucket of the shaper has run empty
  of_rate     the same with its headers (1448 of 1514 bytes are payload), as a share of RATE: 1 is a full link
  latency_us  half of the median round trip of one byte
  mib_us      1 MiB after 10 ms of silence, one way: the least of 20; shaped: that is at least 0.9 x 1 MiB / RATE
"""
import json, os, re, socket, statistics, sys, tempfile, threading, time

BLOCK, CHUNK, MIB = 1 << 22, 1 << 18, 1 << 20
PAYLOAD, FRAME = 1448, 1514             # of a full TCP segment on a link of MTU 1500
FLOOD, ECHO = b"F", b"E"


def bits(rate):
    m = re.fullmatch(r"([0-9.]+)([kmg]?)bit", rate)
    if not m:
        sys.exit("link: expected a rate such as 25gbit, found '%s'" % rate)
    return float(m.group(1)) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[m.group(2)]


def size(text):
    m = re.fullmatch(r"([0-9]+)([km]?)b", text)
    if not m:
        sys.exit("link: expected a size such as 256kb, found '%s'" % text)
    return int(m.group(1)) * {"": 1, "k": 1024, "m": 1024 ** 2}[m.group(2)]


# ---- the far end ----

def receive(s, n, buffer):
    """n bytes, thrown away where they lie: copying them would be what is measured."""
    while n > 0:
        got = s.recv_into(buffer, min(n, BLOCK), socket.MSG_TRUNC)
        if not got:
            raise ConnectionError
        n -= got


def serve_one(s):
    buffer = bytearray(BLOCK)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        while True:
            kind = s.recv(1)
            if kind == FLOOD:           # until the other end shuts its side: bytes that came in its span of time, by the clock both ends have
                first, last = json.loads(s.recv(64, socket.MSG_WAITALL))
                n = 0
                while True:
                    got = s.recv_into(buffer, BLOCK, socket.MSG_TRUNC)
                    if not got:
                        break
                    n += got if first <= time.monotonic() < last else 0
                s.sendall(b"%20d" % n)
            elif kind == ECHO:
                receive(s, int(s.recv(20, socket.MSG_WAITALL)), buffer)
                s.sendall(b"!")
            else:
                return
    except OSError:
        return


def serve(port):
    listener = socket.create_server(("", port))
    while True:
        s, _ = listener.accept()
        threading.Thread(target=serve_one, args=(s,), daemon=True).start()


# ---- this end ----

def connect(host, port):
    for attempt in range(100):
        try:
            s = socket.create_connection((host, port), timeout=30)
            s.settimeout(None)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return s
        except OSError:
            time.sleep(0.02)
    sys.exit("link: %s:%d does not answer" % (host, port))


def flood(s, blank, first, last, received):
    s.sendall(FLOOD + json.dumps([first, last]).encode().ljust(64))
    while time.monotonic() < last + 0.05:
        os.sendfile(s.fileno(), blank.fileno(), 0, CHUNK)   # pages are sent, not copied
    s.shutdown(socket.SHUT_WR)
    received.append(int(s.recv(20, socket.MSG_WAITALL)))


def throughput(host, port, blank, warm, span):
    """Payload bits a second; over as many connections as keep the link full."""
    received, ends = [], [connect(host, port) for _ in range(min(4, os.cpu_count()))]
    first = time.monotonic() + warm
    streams = [threading.Thread(target=flood, args=(s, blank, first, first + span, received)) for s in ends]
    for t in streams:
        t.start()
    for t in streams:
        t.join()
    return 8 * sum(received) / span


def echo(s, blank, n):
    """Seconds until n bytes were there and the answer was back."""
    start = time.perf_counter()
    s.sendall(ECHO + b"%20d" % n)
    sent = 0
    while sent < n:
        sent += os.sendfile(s.fileno(), blank.fileno(), sent, n - sent)
    s.recv(1)
    return time.perf_counter() - start


def measure(host, port, rate, burst):
    r, bucket = bits(rate), 8 * size(burst) / bits(rate)
    blank = tempfile.TemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    blank.write(bytes(MIB))
    blank.flush()
    payload = throughput(host, port, blank, 0.1 + 2 * bucket, 0.3)
    s = connect(host, port)
    for _ in range(5):
        echo(s, blank, MIB)             # the connection has found out what the link takes
    latency = statistics.median(echo(s, blank, 1) for _ in range(200)) / 2
    spurts = []
    for _ in range(20):
        time.sleep(max(0.01, bucket))
        spurts.append(echo(s, blank, MIB) - latency)
    least = min(spurts)
    print(json.dumps({"rate": rate, "burst": burst, "gbit_s": round(payload / 1e9, 3), "of_rate": round(payload * FRAME / PAYLOAD / r, 4),
                      "latency_us": round(latency * 1e6, 1), "mib_us": round(least * 1e6, 1), "mib_us_median": round(statistics.median(spurts) * 1e6, 1),
                      "mib_us_at_rate": round(8e6 * MIB / r, 1), "shaped": least >= 0.9 * 8 * MIB / r}))


def main():
    words = sys.argv[1:]
    if len(words) == 2 and words[0] == "serve":
        serve(int(words[1]))
    elif len(words) == 5 and words[0] == "measure":
        measure(words[1], int(words[2]), words[3], words[4])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
