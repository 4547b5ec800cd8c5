"""The peers' side: each tool from its package registry, in a virtual environment of its own, used as its documentation shows."""

import os
import shutil

from ground import LINEITEM_TEXT, LINEITEM_TYPED, ORDERS
from measure import Case

SLING, INGESTR, DUCKDB = "sling==1.4.10 pyarrow", "ingestr==1.0.78", "duckdb==1.4.0"
DLT = "dlt[postgres]==1.31.0 sqlalchemy pyarrow psycopg2-binary"

DLT_SCRIPT = """
import sys, dlt
from dlt.sources.sql_database import sql_table
source, target = sys.argv[1:]
table = sql_table(source.replace('postgres://', 'postgresql+psycopg2://'), table='lineitem', schema='public', backend='pyarrow', chunk_size=100000)
pipeline = dlt.pipeline('lineitem', destination=dlt.destinations.postgres(target.replace('postgres://postgres@', 'postgresql://postgres:unused@')), dataset_name='tpch', pipelines_dir='dlt-state')
pipeline.run(table, write_disposition='replace', loader_file_format='csv')
"""


DUCKDB_SCRIPT = """
import sys, duckdb
types = {columns}
rows = duckdb.read_csv('/dev/stdin', header=True, columns=types)
rows.write_parquet(sys.argv[1], compression='snappy')
"""


def _sling(ground):
    return f"SLING_DISABLE_TELEMETRY=TRUE {ground.tool(SLING, 'sling')} run"


def _ingestr(ground):
    return f"DISABLE_TELEMETRY=true INGESTR_DISABLE_TELEMETRY=true {ground.tool(INGESTR, 'ingestr')} ingest --yes"


def _pg(url):
    return url.replace("postgres://", "postgresql://") + "?sslmode=disable"


def pg_pg(ground, fresh, rows_of_target):
    arrived = rows_of_target(ground, "public.lineitem", "lineitem")
    script = ground.path("dlt_lineitem.py")
    with open(script, "w") as file:
        file.write(DLT_SCRIPT)
    dlt = os.path.join(os.path.dirname(ground.tool(DLT, "dlt")), "python")
    cases = [
        Case(
            "sling 1.4.10",
            f"{_sling(ground)} --src-conn '{_pg(ground.source)}' --src-stream public.lineitem --tgt-conn '{_pg(ground.target)}'"
            " --tgt-object public.lineitem --mode full-refresh",
            fresh,
            arrived,
            rounds=1,
        ),
        Case(
            "ingestr 1.0.78",
            f"{_ingestr(ground)} --source-uri '{_pg(ground.source)}' --source-table public.lineitem --dest-uri '{_pg(ground.target)}'"
            " --dest-table public.lineitem",
            fresh,
            arrived,
            rounds=1,
        ),
        Case(
            "dlt 1.31.0 (pyarrow, csv loader)",
            f"rm -rf dlt-state; {dlt} {script} '{ground.source}' '{ground.target}'",
            fresh,
            rows_of_target(ground, "tpch.lineitem", "lineitem"),
            rounds=1,
        ),
    ]
    if shutil.which("pgcopydb"):
        command = f"rm -rf pgcopydb-work; PATH={ground.programs}:$PATH setsid --wait pgcopydb copy table-data --dir pgcopydb-work --source '{ground.source}'"
        def before():
            fresh()
            ground.sql(ground.target, f"create table lineitem ({LINEITEM_TYPED}); create table orders ({ORDERS})")

        only = ground.path("pgcopydb.ini")
        with open(only, "w") as file:
            file.write("[include-only-table]\npublic.lineitem\n")
        cases.append(Case("pgcopydb, 1 job", f"{command} --target '{ground.target}' --table-jobs 1 --filters {only} --not-consistent", before, arrived))
    return cases


def csv_pg(ground, fresh, rows_of_target):
    arrived = rows_of_target(ground, "public.lineitem", "lineitem")
    csv = ground.csv("lineitem")
    return [
        Case(
            "ingestr 1.0.78 (numbers land as text)",
            f"{_ingestr(ground)} --source-uri 'csv://{csv}' --source-table lineitem --dest-uri '{_pg(ground.target)}' --dest-table public.lineitem",
            fresh,
            arrived,
            rounds=1,
        ),
        Case(
            "sling 1.4.10 (types guessed)",
            f"{_sling(ground)} --src-stream 'file://{csv}' --tgt-conn '{_pg(ground.target)}' --tgt-object public.lineitem --mode full-refresh",
            fresh,
            arrived,
            rounds=1,
        ),
    ]


def pg_parquet(ground):
    out = ground.path("out")
    types = {}
    for column in LINEITEM_TEXT.replace("(15,2)", "(15;2)").split(","):
        name, sql_type, *_ = column.split()
        types[name] = sql_type.replace(";", ",").replace("numeric", "decimal").replace("text", "varchar")
    script = ground.path("duckdb_parquet.py")
    with open(script, "w") as file:
        file.write(DUCKDB_SCRIPT.format(columns=types))
    python = os.path.join(os.path.dirname(ground.tool(DUCKDB, "python")), "python")
    read = f"{ground.psql} -d {ground.source} -c 'copy lineitem to stdout (format csv, header)'"
    return [
        ("psql csv \\| duckdb 1.4.0 (types given by hand, snappy)", f"{read} | {python} {script} {out}/lineitem.parquet", 0),
        (
            "ingestr 1.0.78",
            f"{_ingestr(ground)} --source-uri '{_pg(ground.source)}' --source-table public.lineitem --dest-uri 'parquet://{out}/lineitem.parquet'"
            " --dest-table lineitem",
            1,
        ),
    ]


def pg_csv(ground):
    out = ground.path("out")
    return [
        (
            "ingestr 1.0.78",
            f"{_ingestr(ground)} --source-uri '{_pg(ground.source)}' --source-table public.lineitem --dest-uri 'csv://{out}/lineitem.csv' --dest-table lineitem",
            1,
        ),
        (
            "sling 1.4.10",
            f"{_sling(ground)} --src-conn '{_pg(ground.source)}' --src-stream public.lineitem --tgt-object 'file://{out}/lineitem.csv'",
            1,
        ),
    ]


def pg_sqlite(ground):
    out = ground.path("out")
    return [
        (
            "ingestr 1.0.78",
            f"{_ingestr(ground)} --source-uri '{_pg(ground.source)}' --source-table public.orders --dest-uri 'sqlite:///{out}/orders.db' --dest-table main.orders",
        ),
        (
            "sling 1.4.10",
            f"{_sling(ground)} --src-conn '{_pg(ground.source)}' --src-stream public.orders --tgt-conn 'sqlite://{out}/orders.db' --tgt-object main.orders --mode full-refresh",
        ),
    ]
