#!/usr/bin/env python3
"""Measures haul beside the physical limit and its peers, and writes a Markdown report.

    cargo build --release
    benches/run.py --dir /tmp/haul-bench --haul target/release/haul pg-pg csv-pg pg-parquet pg-csv pg-sqlite small
    benches/run.py --dir /tmp/haul-bench --peers --report benches/RESULTS.md pg-pg

Everything it needs is made below --dir: TPC-H data (tpchgen-cli from PyPI), a PostgreSQL on a private port (the server's programs must be
installed), the peers (from PyPI). Without --haul only limits and peers run.
"""

import argparse
import datetime
import os
import platform
import signal
import statistics
import sys
import time

import cache
import cases
import changes
import feeds
import http_ingest
import measure
import redis
import small
from ground import Ground

TABLES = {
    "pg-pg": ("PostgreSQL → PostgreSQL, lineitem", cases.pg_pg),
    "csv-pg": ("CSV → PostgreSQL, lineitem", cases.csv_pg),
    "pg-parquet": ("PostgreSQL → Parquet, lineitem", cases.pg_parquet),
    "pg-csv": ("PostgreSQL → CSV, lineitem", cases.pg_csv),
    "pg-sqlite": ("PostgreSQL → SQLite, orders", cases.pg_sqlite),
}


# Those that start what they need themselves.
OTHERS = {**small.JOBS, **redis.JOBS, **cache.JOBS, **http_ingest.JOBS, **changes.JOBS, **feeds.JOBS}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="+", choices=[*TABLES, *OTHERS, "small"], help="what to measure; `small` is all that need no server")
    parser.add_argument("--dir", required=True, help="the work folder; some 10 GB at scale 1")
    parser.add_argument("--haul", help="the haul binary, built for release")
    parser.add_argument("--peers", action="store_true", help="run the peers too, which takes many minutes")
    parser.add_argument("--only", help="only the limit and cases whose name holds this")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", default="1", help="TPC-H scale factor")
    parser.add_argument("--report", help="a Markdown file to append to")
    options = parser.parse_args()
    haul = os.path.abspath(options.haul) if options.haul else None
    jobs = [job for given in options.jobs for job in (small.JOBS if given == "small" else [given])]

    # A stop, also of a background job that ignores Ctrl-C, must not leave the server running.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit("stopped"))
    os.makedirs(options.dir, exist_ok=True)
    ground = Ground(options.dir, options.scale)
    parts = [heading(options, haul)]
    try:
        for job in jobs:
            print(job, flush=True)
            if job in TABLES:
                parts.append(big(job, ground, haul, options))
            elif haul:
                parts.append(OTHERS[job](ground, haul))
            print(parts[-1], flush=True)
    finally:
        ground.stop()
        if options.report:
            with open(options.report, "a") as file:
                file.write("\n\n".join(parts) + "\n\n")


def big(job, ground, haul, options):
    """One table with a server below it."""
    if ground.server_pid is None:
        ground.generate()
        ground.start()
    title, make = TABLES[job]
    project = cases.Haul(ground, haul) if haul else None
    found = make(ground, project, options.peers)
    if options.only:
        found = found[:1] + [case for case in found[1:] if options.only in case.name]
    costs = measure.compare(found, options.rounds, ground)
    table = "lineitem" if "lineitem" in title else "orders"
    rows = int(ground.sql(ground.source, f"select count(*) from {table}"))
    return f"### {title}, {rows:,} rows\n\n{measure.table(found, costs)}"


def heading(options, haul):
    """When, where and on what: figures without these are noise."""
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = statistics.mean(os.getloadavg()[:2])
    when = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    peers = " --peers" if options.peers else ""
    given = f"benches/run.py --rounds {options.rounds} --scale {options.scale}{peers}{' --haul target/release/haul' if haul else ''} {' '.join(options.jobs)}"
    return (
        f"## {when}\n\n`{given}` on {os.cpu_count()} cores ({model}), {memory:.0f} GiB, {platform.system()} {platform.release().split('-')[0]};"
        f" load average before the start {load:.1f}. Medians; ratios are against the limit (first line) of the same round; `neighbour` is how many cores"
        " other work on the machine kept busy. Peak MiB has a floor of some 15 that Python lends its children."
    )


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"took {time.monotonic() - started:.0f} s")
