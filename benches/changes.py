"""The changes of a PostgreSQL table, followed into PostgreSQL: how fast a waiting log is applied, and how late changes arrive."""

import os
import shutil
import signal
import statistics
import subprocess
import time

import measure
from ground import Ground

# How many changes wait in the slot.
CHANGES = int(os.environ.get("HAUL_CHANGES", "1000000"))
# Rows in the table before.
ROWS = 200_000
# Changes a second, and for how long, when lateness is measured.
RATE, SECONDS = 5000, int(os.environ.get("HAUL_SECONDS", "20"))
# Changes in a transaction then.
TOGETHER = 10

TABLE = "create table items (id bigint primary key, customer int not null, status text not null, total numeric(12,2), at timestamptz, note text)"
ROW = "i, (i * 7919) % 50000, 'new', (i % 100000) / 100.0, clock_timestamp(), 'a note of some length for item ' || i"

# Transactions of 1 to 2,000 changes: half of them inserts, a third updates, the rest deletes.
LOAD = """
create or replace procedure load(wanted int) language plpgsql as $$
declare
    done int := 0; size int; next bigint := (select coalesce(max(id), 0) + 1 from items); got int; kind int := 0;
begin
    perform setseed(0.5);
    while done < wanted loop
        size := least(wanted - done, case kind % 4 when 0 then 1 when 1 then 20 when 2 then 200 else 2000 end);
        if kind % 6 < 3 then
            insert into items select {row} from generate_series(next, next + size - 1) i;
            next := next + size;
        elsif kind % 6 < 5 then
            update items set status = 'sent', total = total + 1 where id in (select (random() * next)::bigint from generate_series(1, size));
        else
            delete from items where id in (select (random() * next)::bigint from generate_series(1, size));
        end if;
        get diagnostics got = row_count;
        if kind % 6 < 3 then got := size; end if;
        done := done + got;
        kind := kind + 1;
        commit;
    end loop;
end $$;
""".replace("{row}", ROW)

PIPELINE = """connections:
  from: {{ url: "{source}" }}
  to: {{ url: "{target}" }}
stages:
  items:
    kind: stream
    from: {{ sql: from, changes: public.items }}
    to: {{ sql: to, table: public.items, mode: upsert, key: [id] }}
    batch: {{ every: {every} }}
"""


class Server(Ground):
    """A server that keeps its log for decoding, and the times of its commits."""

    def __init__(self, folder):
        super().__init__(folder, "changes")
        # A commit that does not wait for its log is told to nobody before the log writer comes by, which takes up to 200 ms.
        self.settings |= {"wal_level": "logical", "track_commit_timestamp": "on", "max_wal_size": "16GB", "synchronous_commit": "on"}

    @property
    def peer(self):
        return self.url("peer")

    def _load(self):
        for database in ("source", "target", "peer"):
            self.sql(self.url("postgres"), f"create database {database}")


def project(server, haul, every):
    """Both tables anew, and a pipeline that has copied them, which commits a row after `every` at the latest."""
    folder = server.path("changes")
    if os.path.exists(os.path.join(folder, "haul.yaml")):
        subprocess.run([haul, "drop", "follow"], cwd=folder, stdout=subprocess.DEVNULL, check=False)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(os.path.join(folder, "pipelines"))
    open(os.path.join(folder, "haul.yaml"), "w").close()
    with open(os.path.join(folder, "pipelines", "follow.yaml"), "w") as file:
        file.write(PIPELINE.format(source=server.source, target=server.target, every=every))
    drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
    server.sql(server.source, drop)
    for database in (server.source, server.target):
        server.sql(database, "drop schema public cascade; create schema public")
    server.sql(server.source, "drop publication if exists haul_follow_items; " + TABLE)
    server.sql(server.source, f"insert into items select {ROW} from generate_series(1, {ROWS}) i")
    server.sql(server.source, LOAD)
    subprocess.run([haul, "run", "follow", "--until", "caught-up"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder


def same(server, target):
    digest = "select count(*), md5(string_agg(t::text, ' ' order by id)) from items t"
    if server.sql(server.source, digest) != server.sql(target, digest):
        raise RuntimeError("source and target differ")


def subscribe(server):
    """PostgreSQL's own replication of the same table, into a database that has the same rows. It stands still until it is enabled."""
    server.sql(server.source, "drop publication if exists peer; create publication peer for table items")
    server.sql(server.source, "select pg_create_logical_replication_slot('peer', 'pgoutput')")
    server.sql(server.peer, "drop schema public cascade; create schema public; " + TABLE)
    copy(server)
    server.sql(
        server.peer,
        f"create subscription peer connection '{server.source}' publication peer"
        " with (create_slot = false, enabled = false, slot_name = 'peer', copy_data = false, binary = true)",
    )


def copy(server):
    psql = [*server.psql.split(), "-d"]
    out = subprocess.Popen([*psql, server.source, "-c", "copy items to stdout (format binary)"], stdout=subprocess.PIPE)
    subprocess.run([*psql, server.peer, "-c", "copy items from stdin (format binary)"], stdin=out.stdout, check=True)
    out.wait()


def replicate(server):
    """Lets the subscription catch up. Gives the seconds that it took."""
    end = server.sql(server.source, "select pg_current_wal_lsn()")
    began = time.monotonic()
    server.sql(server.peer, "alter subscription peer enable")
    while server.sql(server.source, f"select confirmed_flush_lsn >= '{end}' from pg_replication_slots where slot_name = 'peer'") != "t":
        time.sleep(0.02)
    took = time.monotonic() - began
    server.sql(server.peer, "alter subscription peer disable")
    while server.sql(server.source, "select active from pg_replication_slots where slot_name = 'peer'") == "t":
        time.sleep(0.02)
    return took


def apply(ground, haul):
    server = Server(ground.folder)
    server.start()
    try:
        folder = project(server, haul, "100ms")
        subscribe(server)
        costs, peers = [], []
        for _ in range(3):
            server.sql(server.source, f"call load({CHANGES})")
            server.sql(server.source, "checkpoint")
            costs.append(measure.run(f"{haul} run follow --until caught-up", folder))
            same(server, server.target)
            peers.append(replicate(server))
            same(server, server.peer)
        server.sql(server.peer, "drop subscription peer")

        def row(name, walls, client):
            wall = statistics.median(walls)
            return f"| {name} | {CHANGES:,} | {wall:.2f} ({min(walls):.2f}..{max(walls):.2f}) | {CHANGES / wall:,.0f} | {client} |"

        cpu, rss = (statistics.median(getattr(cost, what) for cost in costs) for what in ("client_cpu", "rss_mib"))
        table = [
            "| | changes | wall s (min..max) | changes/s | client CPU s | peak MiB |",
            "|---|---|---|---|---|---|",
            row("PostgreSQL's own subscription", peers, "- | -"),
            row("**haul**", [cost.wall for cost in costs], f"{cpu:.2f} | {rss:.0f}"),
        ]
        return f"### Changes of a PostgreSQL table → PostgreSQL, a waiting log of {CHANGES:,}\n\n" + "\n".join(table)
    finally:
        server.stop()


def late(ground, haul):
    server = Server(ground.folder)
    server.start()
    try:
        folder = project(server, haul, "10ms")
        script = os.path.join(folder, "load.sql")
        with open(script, "w") as file:
            file.write(f"insert into items select nextval('ids'), 1, 'new', 1.5, clock_timestamp(), 'a note' from generate_series(1, {TOGETHER})\n")
        server.sql(server.source, "create sequence ids start 1000000")
        running = subprocess.Popen([haul, "run", "follow"], cwd=folder, stdout=subprocess.DEVNULL)
        try:
            time.sleep(2)
            bench = [server._program("pgbench"), "-n", "-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres", "-f", script]
            subprocess.run([*bench, "-c", "4", "-R", str(RATE // TOGETHER), "-T", str(SECONDS), "source"], check=True, stdout=subprocess.DEVNULL)
            wanted = server.sql(server.source, "select count(*) from items")
            until = time.monotonic() + 60
            while server.sql(server.target, "select count(*) from items") != wanted:
                if time.monotonic() > until:
                    raise RuntimeError("not all changes have arrived")
                time.sleep(0.1)
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait()
        same(server, server.target)
        # The moment of the commit on both sides, by the same clock.
        times = [times_of(server, url) for url in (server.source, server.target)]
        waits = sorted((times[1][key] - when) * 1000 for key, when in times[0].items())
        at = lambda share: waits[min(len(waits) - 1, int(len(waits) * share))]
        return (
            f"### Changes of a PostgreSQL table → PostgreSQL, {RATE:,} changes a second in transactions of {TOGETHER}, {SECONDS} s\n\n"
            "| | changes | p50 ms | p95 ms | p99 ms | longest ms |\n|---|---|---|---|---|---|\n"
            f"| **haul**, from commit to commit | {len(waits):,} | {at(0.5):.1f} | {at(0.95):.1f} | {at(0.99):.1f} | {waits[-1]:.1f} |"
        )
    finally:
        server.stop()


def times_of(server, url):
    rows = server.sql(url, "select id, extract(epoch from pg_xact_commit_timestamp(xmin)) from items where id >= 1000000")
    return {int(key): float(when) for key, when in (line.split("|") for line in rows.splitlines())}


JOBS = {"pg-changes": apply, "pg-changes-late": late}
