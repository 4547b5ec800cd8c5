"""A feed with thousands of clients on the same machine: delivered events a second, how long they take, and memory for each connection."""

import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
import time

CLIENTS = 5000

PIPELINE = """connections:
  db: { url: "sqlite:source.db" }
stages:
  a:
    kind: stream
    from: { sql: db, table: a, cursor: id, every: 10ms }
    to: { feed: a }
    batch: { every: 10ms }
"""


def resident(pid):
    """Bytes of memory of a process."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))


class Writer(threading.Thread):
    """Adds rows at a steady rate, a few at a time, each with the moment it was added at."""

    def __init__(self, path, rate, seconds):
        super().__init__()
        self.path, self.rate, self.seconds = path, rate, seconds
        self.written = 0

    def run(self):
        database = sqlite3.connect(self.path, timeout=30)
        database.execute("pragma synchronous = off")
        began = time.time()
        while (passed := time.time() - began) < self.seconds:
            due = int(passed * self.rate) - self.written
            if due > 0:
                at = int(time.time() * 1e6)
                database.executemany("insert into a (at, name, total) values (?, ?, ?)", [(at, "a row of a feed", 19.9)] * due)
                database.commit()
                self.written += due
            time.sleep(0.01)
        database.close()


def feeds(ground, haul):
    clients = max(50, int(CLIENTS * min(1.0, float(ground.scale))))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * CLIENTS), hard))
    folder = ground.path("feeds")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(os.path.join(folder, "pipelines"))
    with open(os.path.join(folder, "pipelines", "p.yaml"), "w") as file:
        file.write(PIPELINE)
    with open(os.path.join(folder, "haul.yaml"), "w") as file:
        file.write('feeds: { listen: "127.0.0.1:0" }\n')
    program = ground.path("feed_clients")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "feed_clients.c")
    subprocess.run(["cc", "-O2", "-o", program, source], check=True)
    path = os.path.join(folder, "source.db")
    database = sqlite3.connect(path)
    database.executescript("pragma journal_mode = wal; create table a (id integer primary key, at integer, name text, total real)")
    database.execute("insert into a (at, name, total) values (0, 'first', 0)")
    database.commit()
    log = open(os.path.join(folder, "log.txt"), "w")
    server = subprocess.Popen([haul, "run", "p"], cwd=folder, stdout=log, stderr=log)
    fans = None
    try:
        served, feed = os.path.join(folder, ".haul/feeds/served"), os.path.join(folder, ".haul/feeds/a.db")
        wait(lambda: os.path.exists(served) and os.path.getsize(served) > 0 and os.path.exists(feed) and head(feed) >= 1, log.name)
        port = open(served).read().strip().rsplit(":", 1)[1]
        time.sleep(1)
        before = resident(server.pid)
        fans = subprocess.Popen([program, port, "/feeds/a", str(clients)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if fans.stdout.readline().strip() != "ready":
            raise RuntimeError("the clients could not connect")
        time.sleep(2)
        idle = (resident(server.pid) - before) / clients
        ask(fans)
        lines = [
            f"### Feed fan-out: {clients} clients over server-sent events, with the client load on the same machine",
            "",
            "| rows added a second | delivered events a second | of those possible | p50 | p99 | bytes of memory a connection |",
            "|---|---|---|---|---|---|",
            f"| none | – | – | – | – | {idle:,.0f} |",
        ]
        for rate in (10, 50, 100, 200, 400):
            writer = Writer(path, rate, 8)
            writer.start()
            writer.join()
            # What is on its way still counts; a server that cannot keep up shows in the time.
            total, found = 0, {"seconds": 0}
            end = time.time() + 60
            results = []
            while time.time() < end:
                time.sleep(0.5)
                results.append(ask(fans))
                total = sum(result["events"] for result in results)
                if total >= writer.written * clients or results[-1]["events"] == 0:
                    break
            found = results[0]
            busy = sum(result["seconds"] for result in results if result["events"])
            memory = (resident(server.pid) - before) / clients
            share = total / max(1, writer.written * clients)
            lines.append(f"| {rate} | {total / busy:,.0f} | {share:.2%} | {found['p50']:.0f} ms | {found['p99']:.0f} ms | {memory:,.0f} |")
            print(lines[-1], flush=True)
        return "\n".join(lines)
    finally:
        for process in (fans, server):
            if process:
                process.kill()
                process.wait()


def head(path):
    try:
        return sqlite3.connect(path, timeout=5).execute("select next - 1 from feed").fetchone()[0]
    except sqlite3.Error:
        return 0


def wait(done, log):
    end = time.time() + 60
    while not done():
        if time.time() > end:
            sys.exit(f"haul serves no feed: {open(log).read()}")
        time.sleep(0.05)


def ask(fans):
    """Ends a measurement, and begins the next."""
    fans.stdin.write("next\n")
    fans.stdin.flush()
    return json.loads(fans.stdout.readline())


JOBS = {"feeds": feeds}
