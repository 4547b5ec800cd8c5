"""Copying a million mixed keys from one Redis to another, beside a loop in C and a replica."""

import os
import shutil
import socket
import statistics
import subprocess
import time

import measure

KEYS = 1_000_000

# Strings of 100 bytes, hashes of 10 fields, lists, sets, sorted sets; every fifth key expires.
FILL = """
for n = tonumber(ARGV[1]), tonumber(ARGV[2]) do
    local key, kind = 'key:' .. n, n % 10
    if kind < 6 then redis.call('SET', key, string.rep('x', 90) .. string.format('%010d', n))
    elseif kind == 6 then
        local fields = {}
        for f = 1, 10 do fields[#fields + 1] = 'field' .. f; fields[#fields + 1] = 'value ' .. n * f end
        redis.call('HSET', key, unpack(fields))
    elseif kind == 7 then redis.call('RPUSH', key, n, n + 1, n + 2, n + 3, n + 4)
    elseif kind == 8 then redis.call('SADD', key, 'a' .. n, 'b' .. n, 'c' .. n, 'd' .. n)
    else redis.call('ZADD', key, 1, 'a' .. n, 2.5, 'b' .. n, n, 'c')
    end
    if n % 5 == 0 then redis.call('PEXPIREAT', key, 4102444800000 + n) end
end
"""

PIPELINE = """connections:
  old: {{ url: "redis://127.0.0.1:{old}", max_connections: {connections} }}
  new: {{ url: "redis://127.0.0.1:{new}", max_connections: {connections} }}
stages:
  keys:
    kind: batch
    from: {{ redis: old, keys: ["*"] }}
    to: {{ redis: new, conflict: replace }}
    verify: {verify}
"""


class Server:
    """One redis-server on a free port, which saves nothing."""

    def __init__(self, folder):
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"],
            stdout=subprocess.DEVNULL,
        )
        while self.ask("PING", check=False) != "PONG":
            time.sleep(0.05)

    def ask(self, *words, check=True):
        done = subprocess.run(["redis-cli", "-p", str(self.port), *map(str, words)], capture_output=True, text=True, check=check)
        return done.stdout.strip()

    def stop(self):
        self.process.terminate()
        self.process.wait()


def copy(ground, haul):
    folder = ground.path("redis")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(os.path.join(folder, "pipelines"))
    loop = os.path.join(folder, "redis_copy")
    subprocess.run(["cc", "-O2", "-o", loop, os.path.join(os.path.dirname(os.path.abspath(__file__)), "redis_copy.c"), "-lhiredis"], check=True)
    old, new = Server(ground.path("redis", "old")), Server(ground.path("redis", "new"))
    try:
        for first in range(0, KEYS, 10_000):
            old.ask("EVAL", FILL, 0, first, first + 9_999)
        for name, connections, verify in (("one", 1, "none"), ("several", 8, "none"), ("proved", 8, "digest")):
            text = PIPELINE.format(old=old.port, new=new.port, connections=connections, verify=verify)
            with open(os.path.join(folder, "pipelines", name + ".yaml"), "w") as file:
                file.write(text)
        replica = (
            f"redis-cli -p {new.port} REPLICAOF 127.0.0.1 {old.port} && "
            f"until redis-cli -p {new.port} INFO replication | grep -q master_link_status:up; do sleep 0.01; done"
        )
        cases = [
            ("limit: hiredis, DUMP and RESTORE by 500", f"{loop} {old.port} {new.port}"),
            ("REPLICAOF", replica),
            ("haul, one connection a side", f"{haul} run one"),
            ("haul, several connections", f"{haul} run several"),
            ("haul, several connections, both sides compared", f"{haul} run proved"),
            ("haul, planning only", f"{haul} plan one"),
        ]
        rows = ["| case | n | wall s (min..max) | keys/s | ratio | client CPU s | peak MiB |", "|---|---|---|---|---|---|---|"]
        costs = {label: [] for label, _ in cases}
        for _ in range(3):
            for label, command in cases:
                new.ask("REPLICAOF", "NO", "ONE")
                new.ask("FLUSHALL")
                shutil.rmtree(os.path.join(folder, ".haul"), ignore_errors=True)
                costs[label].append(measure.run(command, folder))
                copied = [line for line in new.ask("INFO", "keyspace").splitlines() if line.startswith("db0:")]
                arrived = int(copied[0].split("=")[1].split(",")[0]) if copied else 0
                if "planning" not in label and arrived < KEYS:
                    raise RuntimeError(f"{label}: {arrived} keys of {KEYS} arrived")
        limit = statistics.median(cost.wall for cost in costs[cases[0][0]])
        for label, _ in cases:
            walls = [cost.wall for cost in costs[label]]
            wall = statistics.median(walls)
            rate = "" if "planning" in label else f"{KEYS / wall:,.0f}"
            rows.append(
                f"| {label} | {len(walls)} | {wall:.2f} ({min(walls):.2f}..{max(walls):.2f}) | {rate} | {wall / limit:.2f}"
                f" | {statistics.median(cost.client_cpu for cost in costs[label]):.2f} | {statistics.median(cost.rss_mib for cost in costs[label]):.0f} |"
            )
        return f"### Redis → Redis, {KEYS:,} mixed keys\n\n" + "\n".join(rows)
    finally:
        old.stop()
        new.stop()


JOBS = {"redis-redis": copy}
