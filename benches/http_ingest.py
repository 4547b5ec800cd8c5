"""NDJSON over HTTP into PostgreSQL, beside curl and psql on the same lines."""

import functools
import http.server
import os
import shutil
import statistics
import subprocess
import threading

import measure

# The orders of TPC-H, as a copy of `pg-pg` has them.
COLUMNS = (
    "o_orderkey bigint, o_custkey bigint, o_orderstatus text, o_totalprice numeric(15,2), o_orderdate date, o_orderpriority text,"
    " o_clerk text, o_shippriority int, o_comment text"
)

PIPELINE = """connections:
  api: {{ url: "http://127.0.0.1:{port}" }}
  target: {{ url: "{target}" }}
stages:
  orders:
    kind: batch
    from:
      http: api
      path: /orders.ndjson
      columns: {{ o_orderkey: int64, o_custkey: int64, o_orderstatus: text, o_totalprice: "decimal(15,2)", o_orderdate: date,
        o_orderpriority: text, o_clerk: text, o_shippriority: int32, o_comment: text }}
    to: {{ sql: target, table: orders, mode: append }}
    verify: none
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A static file server that says nothing."""

    def log_message(self, *_):
        pass


def ingest(ground, haul):
    if ground.server_pid is None:
        ground.generate()
        ground.start()
    folder = ground.path("http")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(os.path.join(folder, "pipelines"))
    served = os.path.join(folder, "served")
    os.makedirs(served)
    lines = os.path.join(served, "orders.ndjson")
    names = ", ".join(column.split()[0] for column in COLUMNS.split(", "))
    with open(lines, "wb") as file:
        query = f"copy (select row_to_json(o) from (select {names} from orders) o) to stdout with (format csv, quote e'\\x01', delimiter e'\\x02')"
        subprocess.run([*ground.psql.split(), "-d", ground.source, "-c", query], stdout=file, check=True)
    rows = sum(1 for _ in open(lines, "rb"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=served))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    with open(os.path.join(folder, "pipelines", "orders.yaml"), "w") as file:
        file.write(PIPELINE.format(port=port, target=ground.target))
    curl = f"curl -sf http://127.0.0.1:{port}/orders.ndjson"
    psql = f"{ground.psql} -d {ground.target}"
    raw = "\\copy raw from stdin with (format csv, quote e'\\x01', delimiter e'\\x02')"
    typed = f"insert into orders select r.* from raw, json_to_record(line) as r({COLUMNS})"
    cases = [
        ("limit: `curl \\| psql \\copy`, lines as they are", f'{curl} | {psql} -c "{raw}"', "raw"),
        ("`curl \\| psql \\copy`, then `json_to_record` into columns", f'{curl} | {psql} -c "{raw}" && {psql} -c "{typed}"', "orders"),
        ("**haul**, into columns", f"{haul} run orders", "orders"),
    ]
    table = ["| case | n | wall s (min..max) | rows/s | ratio | client CPU s | peak MiB |", "|---|---|---|---|---|---|---|"]
    costs = {label: [] for label, _, _ in cases}
    try:
        for _ in range(3):
            for label, command, into in cases:
                ground.sql(ground.target, "drop schema public cascade; create schema public; drop schema if exists haul cascade")
                ground.sql(ground.target, f"create table raw (line json); create table orders ({COLUMNS})")
                shutil.rmtree(os.path.join(folder, ".haul"), ignore_errors=True)
                costs[label].append(measure.run(command, folder))
                found = int(ground.sql(ground.target, f"select count(*) from {into}"))
                if found != rows:
                    raise RuntimeError(f"{label}: {found} rows of {rows} arrived")
    finally:
        server.shutdown()
    limit = statistics.median(cost.wall for cost in costs[cases[0][0]])
    for label, _, _ in cases:
        walls = [cost.wall for cost in costs[label]]
        wall = statistics.median(walls)
        table.append(
            f"| {label} | {len(walls)} | {wall:.2f} ({min(walls):.2f}..{max(walls):.2f}) | {rows / wall:,.0f} | {wall / limit:.2f}"
            f" | {statistics.median(cost.client_cpu for cost in costs[label]):.2f} | {statistics.median(cost.rss_mib for cost in costs[label]):.0f} |"
        )
    size = os.path.getsize(lines) / 2**20
    return f"### NDJSON over HTTP → PostgreSQL, orders, {rows:,} rows, {size:.0f} MiB\n\n" + "\n".join(table)


JOBS = {"http-pg": ingest}
