"""The jobs that are measured: for each the limit first, then haul, then the peers."""

import os
import shutil

import peers
from ground import LINEITEM_TEXT, LINEITEM_TYPED
from measure import Case

CONNECTIONS = """connections:
  source: {{ url: "{source}" }}
  target: {{ url: "{target}", max_connections: 8 }}
  data: {{ url: "file://{data}" }}
  out: {{ url: "file://{out}" }}
  lite: {{ url: "sqlite:{out}/orders.db" }}
"""

CSV_COLUMNS = """{ l_orderkey: int64, l_partkey: int64, l_suppkey: int64, l_linenumber: int32, l_quantity: "decimal(15,2)",
        l_extendedprice: "decimal(15,2)", l_discount: "decimal(15,2)", l_tax: "decimal(15,2)", l_shipdate: date, l_commitdate: date, l_receiptdate: date }"""


class Haul:
    """The project in which haul runs, one generated pipeline a case."""

    def __init__(self, ground, program):
        self.ground, self.program = ground, program
        self.folder = ground.path("project")
        os.makedirs(os.path.join(self.folder, "pipelines"), exist_ok=True)
        self.out = ground.path("out")
        os.makedirs(self.out, exist_ok=True)

    def case(self, label, name, stage, before=None, after=None, rounds=0, verify="none"):
        text = CONNECTIONS.format(source=self.ground.source, target=self.ground.target, data=self.ground.data, out=self.out)
        text += f"stages:\n  copy:\n    kind: batch\n{stage}    verify: {verify}\n"
        with open(os.path.join(self.folder, "pipelines", name + ".yaml"), "w") as file:
            file.write(text)
        return Case(f"**{label}**", f"{self.program} run {name}", before, after, self.folder, rounds)


def fresh_target(ground, columns=None, table="lineitem"):
    """Drops what an earlier run left in the target, with haul's marks, and creates the table when columns are given."""

    def before():
        ground.sql(ground.target, "drop schema public cascade; create schema public; drop schema if exists haul cascade")
        ground.sql(ground.target, "drop schema if exists tpch cascade")
        if columns:
            ground.sql(ground.target, f"create table {table} ({columns})")

    return before


def rows_of_target(ground, table, expected_of):
    """A run whose target does not hold as many rows as the source is no run."""

    def after():
        found = ground.sql(ground.target, f"select count(*) from {table}")
        expected = ground.sql(ground.source, f"select count(*) from {expected_of}")
        if found != expected:
            raise RuntimeError(f"{table} holds {found} rows, not {expected}")

    return after


def pg_pg(ground, haul, with_peers):
    fresh = fresh_target(ground, LINEITEM_TYPED)
    arrived = rows_of_target(ground, "lineitem", "lineitem")
    read = lambda where="": f"{ground.psql} -d {ground.source} -c \"copy (select * from lineitem {where}) to stdout (format binary)\""
    write = f"{ground.psql} -d {ground.target} -c 'copy lineitem from stdin (format binary)'"
    whole = f"{ground.psql} -d {ground.source} -c 'copy lineitem to stdout (format binary)'"
    half = ground.sql(ground.source, "select pg_relation_size('lineitem') / current_setting('block_size')::int / 2")
    block = f"'({half},0)'"
    lower, upper = (f"({read(f'where ctid {sign} ' + quoted)} | {write})" for sign, quoted in (("<", block), (">=", block)))
    cases = [
        Case("limit: psql COPY binary, one pipe", f"{whole} | {write}", fresh, arrived),
        Case(
            "limit: psql COPY binary, two block ranges",
            f"{lower} & one=$!; {upper} && wait $one",
            fresh,
            arrived,
        ),
    ]
    if haul:
        stage = "    from: {{ sql: source, table: public.lineitem }}\n{more}    to: {{ sql: target, table: public.lineitem }}\n    splits: {{ most: {most}, concurrency: {at_once} }}\n"
        changed = '    transform:\n      - set: { l_comment: "upper(l_comment)" }\n'
        new = fresh_target(ground)
        for label, name, more, most, at_once, verify in [
            ("haul, bytes pass through, one connection", "pass-one", "", 1, 1, "none"),
            ("haul, bytes pass through, splits, two at once", "pass-two", "", 64, 2, "none"),
            ("haul, bytes pass through, defaults, digest verified", "pass-digest", "", 64, 4, "digest"),
            ("haul, typed (`set`), one connection", "typed-one", changed, 1, 1, "none"),
            ("haul, typed (`set`), splits, two at once", "typed-two", changed, 64, 2, "none"),
        ]:
            cases.append(haul.case(label, name, stage.format(more=more, most=most, at_once=at_once), new, arrived, verify=verify))
    if with_peers:
        cases += peers.pg_pg(ground, fresh_target(ground), rows_of_target)
    return cases


def csv_pg(ground, haul, with_peers):
    fresh = fresh_target(ground, LINEITEM_TEXT)
    arrived = rows_of_target(ground, "lineitem", "lineitem")
    csv = ground.csv("lineitem")
    cases = [Case("limit: psql \\copy csv", f"{ground.psql} -d {ground.target} -c \"\\copy lineitem from '{csv}' (format csv, header)\"", fresh, arrived)]
    if haul:
        stage = f"    from: {{ files: data, path: lineitem.csv, columns: {CSV_COLUMNS} }}\n    to: {{ sql: target, table: public.lineitem }}\n"
        cases.append(haul.case("haul, defaults", "csv-pg", stage, fresh_target(ground), arrived))
    if with_peers:
        cases += peers.csv_pg(ground, fresh_target(ground), rows_of_target)
    return cases


def _fresh_out(haul_out):
    def before():
        shutil.rmtree(haul_out, ignore_errors=True)
        os.makedirs(haul_out)

    return before


def _size_of(folder):
    def after():
        total = 0
        for root, _, files in os.walk(folder):
            total += sum(os.path.getsize(os.path.join(root, name)) for name in files)
        if not total:
            raise RuntimeError(f"nothing was written to {folder}")
        return total

    return after


def _pg_file(ground, haul, path, more, label, name, peer_cases):
    out = ground.path("out")
    fresh, size = _fresh_out(out), _size_of(out)
    limit = f"{ground.psql} -d {ground.source} -c 'copy lineitem to stdout (format csv, header)' > {out}/lineitem.csv"
    cases = [Case("limit: psql COPY csv > file", limit, fresh, size)]
    if haul:
        for suffix, splits, target in [("one file", "{ most: 1 }", path), ("a folder of parts, two at once", "{ most: 16, concurrency: 2 }", "lineitem/")]:
            target_format = f", format: {path.rpartition('.')[2]}" if target.endswith("/") else ""
            stage = f"    from: {{ sql: source, table: public.lineitem }}\n    to: {{ files: out, path: {target}{target_format}{more} }}\n    splits: {splits}\n"
            cases.append(haul.case(f"{label}, {suffix}", f"{name}-{'parts' if target_format else 'file'}", stage, fresh, size))
    return cases + [Case(label, command, fresh, size, rounds=rounds) for label, command, rounds in peer_cases]


def pg_parquet(ground, haul, with_peers):
    return _pg_file(ground, haul, "lineitem.parquet", ", compression: snappy", "haul, Parquet (snappy)", "pg-parquet", peers.pg_parquet(ground) if with_peers else [])


def pg_csv(ground, haul, with_peers):
    return _pg_file(ground, haul, "lineitem.csv", "", "haul, CSV", "pg-csv", peers.pg_csv(ground) if with_peers else [])


def pg_sqlite(ground, haul, with_peers):
    out = ground.path("out")
    fresh, size = _fresh_out(out), _size_of(out)
    columns = (
        "o_orderkey integer not null, o_custkey integer not null, o_orderstatus text not null, o_totalprice text not null, o_orderdate text not null,"
        " o_orderpriority text not null, o_clerk text not null, o_shippriority integer not null, o_comment text not null"
    )
    read = f"{ground.psql} -d {ground.source} -c 'copy orders to stdout (format csv)'"
    load = lambda pragmas, key: (
        f"{read} | sqlite3 {out}/orders.db {pragmas} 'create table orders ({columns}{key})' '.mode csv' '.import /dev/stdin orders' > /dev/null"
    )
    cases = [
        Case("limit: psql csv \\| sqlite3 .import, journal and sync off", load("'pragma journal_mode=off' 'pragma synchronous=off'", ""), fresh, size),
        Case("psql csv \\| sqlite3 .import, primary key, SQLite's defaults", load("", ", primary key (o_orderkey)"), fresh, size),
    ]
    if haul:
        stage = "    from: { sql: source, table: public.orders }\n    to: { sql: lite, table: orders }\n"
        cases.append(haul.case("haul, defaults (primary key kept)", "pg-sqlite", stage, fresh, size))
    if with_peers:
        cases += [Case(label, command, fresh, size, rounds=1) for label, command in peers.pg_sqlite(ground)]
    return cases
