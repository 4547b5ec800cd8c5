"""Redis: a million mixed keys copied beside a loop in C and a replica, and a million rows written into hashes beside `redis-cli --pipe`."""

import os
import shutil
import socket
import statistics
import subprocess
import time

import measure

# At scale 1.
KEYS = 1_000_000
ROUNDS = 3

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


ROWS = """connections:
  here: {{ url: "file:." }}
  new: {{ url: "redis://127.0.0.1:{new}", max_connections: 8 }}
stages:
  rows:
    kind: batch
    from: {{ files: here, path: rows.csv, csv: {{}}, columns: {{ id: int64, name: text, city: text, age: int32, score: float64 }}, sample: 1 }}
    to: {{ redis: new, hash: "user:{{{{ id }}}}" }}
    verify: {verify}
"""

# The commands that the rows of the file become.
COMMANDS = r"""awk -F, 'NR > 1 {
    printf "*12\r\n$4\r\nHSET\r\n$%d\r\nuser:%s\r\n", length($1) + 5, $1
    for (i = 1; i <= 5; i++) printf "$%d\r\n%s\r\n$%d\r\n%s\r\n", length(name[i]), name[i], length($i), $i
} NR == 1 { for (i = 1; i <= 5; i++) name[i] = $i }' rows.csv"""


class Server:
    """One redis-server on a free port, which saves nothing."""

    def __init__(self, folder):
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"]
            + ["--enable-debug-command", "local", "--repl-diskless-sync-delay", "0"],
            stdout=subprocess.DEVNULL,
        )
        while self.ask("PING", check=False) != "PONG":
            time.sleep(0.05)

    def ask(self, *words, check=True):
        done = subprocess.run(["redis-cli", "-p", str(self.port), *map(str, words)], capture_output=True, text=True, check=check)
        return done.stdout.strip()

    def digest(self):
        """What it holds, without regard to the order of sets and hashes; haul's own records are removed first."""
        for key in self.ask("KEYS", "haul:{*").splitlines():
            self.ask("DEL", key)
        return self.ask("DBSIZE"), self.ask("DEBUG", "DIGEST")

    def stop(self):
        self.process.terminate()
        self.process.wait()


def project(ground, name, pipelines):
    """A folder with pipelines."""
    folder = ground.path(name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(os.path.join(folder, "pipelines"))
    for pipeline, text in pipelines.items():
        with open(os.path.join(folder, "pipelines", pipeline + ".yaml"), "w") as file:
            file.write(text)
    return folder


def compare(title, cases, count, what, folder, target, expected):
    """Runs the cases in turn on an empty target. Each must leave there what `expected` gives; the first is the limit."""
    costs = {label: [] for label, _ in cases}
    for _ in range(ROUNDS):
        for label, command in cases:
            target.ask("REPLICAOF", "NO", "ONE")
            target.ask("FLUSHALL")
            shutil.rmtree(os.path.join(folder, ".haul"), ignore_errors=True)
            cost = measure.run(command, folder)
            costs[label].append(cost)
            print(f"  {label}: {cost.wall:.2f} s, client {cost.client_cpu:.2f} CPU-s, {cost.rss_mib:.0f} MiB", flush=True)
            if "planning" not in label and target.digest() != expected():
                raise RuntimeError(f"{label}: the target holds {target.digest()}, and should hold {expected()}")
    limit = statistics.median(cost.wall for cost in costs[cases[0][0]])
    rows = [f"| case | n | wall s (min..max) | {what}/s | ratio | client CPU s | peak MiB |", "|---|---|---|---|---|---|---|"]
    for label, _ in cases:
        walls = [cost.wall for cost in costs[label]]
        wall = statistics.median(walls)
        rate = "" if "planning" in label else f"{count / wall:,.0f}"
        rows.append(
            f"| {label} | {len(walls)} | {wall:.2f} ({min(walls):.2f}..{max(walls):.2f}) | {rate} | {wall / limit:.2f}"
            f" | {statistics.median(cost.client_cpu for cost in costs[label]):.2f} | {statistics.median(cost.rss_mib for cost in costs[label]):.0f} |"
        )
    return f"### {title}\n\n" + "\n".join(rows)


def copy(ground, haul):
    keys = int(KEYS * float(ground.scale))
    old, new = Server(ground.path("redis", "old")), Server(ground.path("redis", "new"))
    try:
        for first in range(0, keys, 10_000):
            old.ask("EVAL", FILL, 0, first, min(first + 10_000, keys) - 1)
        ways = {"one": (1, "none"), "several": (8, "none"), "proved": (8, "digest")}
        pipeline = lambda connections, verify: PIPELINE.format(old=old.port, new=new.port, connections=connections, verify=verify)
        folder = project(ground, "redis-copy", {name: pipeline(*how) for name, how in ways.items()})
        loop = os.path.join(folder, "redis_copy")
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "redis_copy.c")
        subprocess.run(["cc", "-O2", "-pthread", "-o", loop, source, "-lhiredis"], check=True)
        replica = (
            f"redis-cli -p {new.port} REPLICAOF 127.0.0.1 {old.port} && "
            f"until redis-cli -p {new.port} INFO replication | grep -q master_link_status:up; do sleep 0.01; done"
        )
        cases = [
            ("limit: hiredis, DUMP and RESTORE by 500", f"{loop} {old.port} {new.port}"),
            ("limit: the same on eight connections", f"{loop} {old.port} {new.port} 8"),
            ("REPLICAOF", replica),
            ("haul, one connection a side", f"{haul} run one"),
            ("haul, several connections", f"{haul} run several"),
            ("haul, several connections, both sides compared", f"{haul} run proved"),
            ("haul, planning only", f"{haul} plan one"),
        ]
        return compare(f"Redis → Redis, {keys:,} mixed keys", cases, keys, "keys", folder, new, old.digest)
    finally:
        old.stop()
        new.stop()


def rows(ground, haul):
    count = int(KEYS * float(ground.scale))
    new = Server(ground.path("redis", "new"))
    try:
        folder = project(ground, "redis-rows", {verify: ROWS.format(new=new.port, verify=verify) for verify in ("none", "digest")})
        with open(os.path.join(folder, "rows.csv"), "w") as file:
            file.write("id,name,city,age,score\n")
            file.writelines(f"{n},user number {n},city {n % 1000},{n % 90},{n % 1000 + 0.5}\n" for n in range(count))
        subprocess.run(["bash", "-c", f"{COMMANDS} > commands"], cwd=folder, check=True)
        pipe = f"redis-cli -p {new.port} --pipe"
        subprocess.run(f"{pipe} < commands", cwd=folder, shell=True, check=True, stdout=subprocess.DEVNULL)
        expected = new.digest()
        cases = [
            ("limit: redis-cli --pipe of ready commands", f"{pipe} < commands"),
            ("awk and redis-cli --pipe", f"{COMMANDS} | {pipe}"),
            ("haul", f"{haul} run none"),
            ("haul, every key read back and compared", f"{haul} run digest"),
            ("haul, planning only", f"{haul} plan none"),
        ]
        return compare(f"CSV → Redis, {count:,} hashes of 5 fields", cases, count, "rows", folder, new, lambda: expected)
    finally:
        new.stop()


JOBS = {"redis-redis": copy, "csv-redis": rows}
