"""Looking rows up in a cache in Redis, with and without a level of memory before it, beside a loop in C."""

import json
import os
import shutil
import statistics
import subprocess

import measure
from redis import Server

LOOKUPS = int(os.environ.get("HAUL_BENCH_LOOKUPS", 1_000_000))
KEYS = LOOKUPS // 10

RAW = "for n = 0, tonumber(ARGV[1]) - 1 do redis.call('SET', 'raw:' .. n, 'customer ' .. n) end"

# Eight splits, as a table of that size would have.
PIPELINE = """connections:
  cache: {{ url: "redis://127.0.0.1:{port}", max_connections: 8 }}
stages:
  known:
    kind: cache
    key: [id]
    in: {{ redis: cache, key: "known:{{{{ id }}}}" }}
    from: {{ generate: {keys}, columns: {{ id: i, name: "'customer ' || i", city: "'city ' || (i % 1000)", segment: "i % 7" }} }}
{memory}  looked:
    kind: batch
    from: {{ generate: {lookups}, columns: {{ n: i, id: "(i * 7919) % {keys}" }} }}
    transform:
{lookup}    to: {{ discard: a bench }}
    verify: none
    splits: {{ most: 8, bytes: 1KiB, concurrency: 4 }}
"""
LOOKUP = "      - lookup: { cache: known, on: id, add: [name], missing: fail }\n"
MEMORY = "    levels: { memory: { max: 256MiB, ttl: 10m } }\n"


def lookups(ground, haul):
    folder = ground.path("cache")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(os.path.join(folder, "pipelines"))
    loop = os.path.join(folder, "redis_lookup")
    subprocess.run(["cc", "-O2", "-o", loop, os.path.join(os.path.dirname(os.path.abspath(__file__)), "redis_lookup.c"), "-lhiredis"], check=True)
    server = Server(ground.path("cache", "server"))
    try:
        for name, memory, lookup in (("far", "", LOOKUP), ("near", MEMORY, LOOKUP), ("none", "", "      - filter: 'id >= 0'\n")):
            with open(os.path.join(folder, "pipelines", name + ".yaml"), "w") as file:
                file.write(PIPELINE.format(port=server.port, keys=KEYS, lookups=LOOKUPS, memory=memory, lookup=lookup))
        server.ask("EVAL", RAW, 0, KEYS)
        fill = measure.run(f"{haul} run far --only known", folder)
        look = lambda name: f"{haul} run {name} --only looked --fresh --json > {name}.json"
        cases = [
            ("limit: hiredis, MGET of strings by 1,000", f"{loop} {server.port} mget {LOOKUPS} {KEYS}"),
            ("hiredis, HMGET of the same hashes by 1,000", f"{loop} {server.port} hmget {LOOKUPS} {KEYS}"),
            ("haul, Redis", look("far")),
            ("haul, Redis and memory", look("near")),
            ("haul, the same rows without a lookup", look("none")),
            ("haul, planning only", f"{haul} plan far"),
        ]
        costs = {label: [] for label, _ in cases}
        stage = {}
        for _ in range(3):
            for label, command in cases:
                costs[label].append(measure.run(command, folder))
                if ".json" in command:
                    stage.setdefault(label, []).append(of_stage(os.path.join(folder, command.split()[-1])))
        limit = statistics.median(cost.wall for cost in costs[cases[0][0]])
        rows = ["| case | n | wall s (min..max) | lookups/s | of the stage alone | ratio | client CPU s | peak MiB |", "|---|---|---|---|---|---|---|---|"]
        for label, _ in cases:
            walls = [cost.wall for cost in costs[label]]
            wall = statistics.median(walls)
            rate = "" if "planning" in label else f"{LOOKUPS / wall:,.0f}"
            alone = f"{statistics.median(stage[label]):,.0f}" if label in stage else ""
            cpu, peak = (statistics.median(getattr(cost, of) for cost in costs[label]) for of in ("client_cpu", "rss_mib"))
            rows.append(
                f"| {label} | {len(walls)} | {wall:.2f} ({min(walls):.2f}..{max(walls):.2f}) | {rate} | {alone} | {wall / limit:.2f} | {cpu:.2f} | {peak:.0f} |"
            )
        title = f"### {LOOKUPS:,} lookups of {KEYS:,} keys in Redis\n\nFilling the cache took {fill.wall:.1f} s, {KEYS / fill.wall:,.0f} rows/s.\n\n"
        return title + "\n".join(rows)
    finally:
        server.stop()


def of_stage(path):
    """Rows a second of the stage that looks up, and proof that each row came out."""
    with open(path) as file:
        ends = [event for event in map(json.loads, file) if event.get("event") == "stage_finished" and event["stage"] == "looked"]
    if ends[0]["rows_out"] != LOOKUPS:
        raise RuntimeError(f"{ends[0]['rows_out']} rows of {LOOKUPS} came out")
    return LOOKUPS / max(ends[0]["elapsed_ms"], 1) * 1000


JOBS = {"lookups": lookups}
