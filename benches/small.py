"""Measurements without a server: what haul itself costs."""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import time
import urllib.request

import measure


def _project(ground, name, files):
    folder = ground.path(name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(os.path.join(folder, "pipelines"))
    for file, text in files.items():
        with open(os.path.join(folder, "pipelines", file), "w") as out:
            out.write(text)
    return folder


def _report(title, folder, commands, rounds):
    rows = ["| case | n | wall ms (min..max) | CPU ms | peak MiB |", "|---|---|---|---|---|"]
    for label, command in commands:
        costs = [measure.run(command, folder) for _ in range(rounds)]
        walls = [cost.wall * 1000 for cost in costs]
        rows.append(
            f"| {label} | {rounds} | {statistics.median(walls):.0f} ({min(walls):.0f}..{max(walls):.0f})"
            f" | {statistics.median(cost.client_cpu * 1000 for cost in costs):.0f} | {statistics.median(cost.rss_mib for cost in costs):.0f} |"
        )
    return f"### {title}\n\n" + "\n".join(rows)


def _generated(name, after=()):
    order = f"    after: [{', '.join(after)}]\n" if after else ""
    return f'  {name}:\n    kind: batch\n{order}    from: {{ generate: 1, columns: {{ id: "i" }} }}\n    to: {{ discard: "only the dispatcher is measured" }}\n'


def dag(ground, haul):
    flat = "stages:\n" + "".join(_generated(f"s{n}") for n in range(1000))
    layers = "stages:\n" + "".join(
        _generated(f"s{layer}x{n}", [f"s{layer - 1}x{m}" for m in ((n - 1) % 100, n)] if layer else []) for layer in range(10) for n in range(100)
    )
    chain = "stages:\n" + "".join(_generated(f"s{n}", [f"s{n - 1}"] if n else []) for n in range(1000))
    one = "stages:\n" + _generated("s0")
    folder = _project(ground, "dag", {"flat.yaml": flat, "layers.yaml": layers, "chain.yaml": chain, "one.yaml": one})
    names = [("1 stage (start and end of a run)", "one"), ("1,000 stages side by side", "flat"), ("10 layers of 100, two edges a stage", "layers"), ("a chain of 1,000", "chain")]
    return _report("A DAG of 1,000 trivial stages", folder, [(label, f"rm -rf .haul; {haul} run {name}") for label, name in names], 5)


def validate(ground, haul):
    stage = (
        "  s{n}:\n    kind: batch\n    description: One of ten.\n"
        '    from: {{ sql: shop, table: public.orders_{n}, where: "placed_at >= {{{{ params.since }}}}" }}\n'
        "    transform:\n      - filter: \"status <> 'test'\"\n      - set: {{ total_cents: \"cast(total * 100 as bigint)\" }}\n"
        "    to: {{ sql: warehouse, table: public.orders_{n}, mode: upsert, key: [id] }}\n    verify: digest\n"
    )
    head = (
        "description: Generated.\nparams:\n  since: { type: date, default: \"2020-01-01\" }\nconnections:\n"
        '  shop: { url: "{{ env.SHOP_URL }}" }\n  warehouse: { url: "{{ env.WAREHOUSE_URL }}" }\nstages:\n'
    )
    text = head + "".join(stage.format(n=n) for n in range(10))
    folder = _project(ground, "validate", {f"p{n:04}.yaml": text for n in range(1000)})
    return _report("Validating 1,000 files of 10 stages", folder, [("`haul validate`", f"{haul} validate")], 5)


def version(ground, haul):
    folder = _project(ground, "version", {})
    return _report("Cold start", folder, [("`bash -c true` (floor of the harness)", "true"), ("`haul --version`", f"exec {haul} --version")], 21)


def serve(ground, haul):
    """A daemon that has nothing to do, and one with 1,000 pipelines that each run once a minute at their own second."""
    rows = [
        "| case | peak MiB | open files | ticks | set going, ms after it was due: mean | p50 at most | p99 at most | in the journal, ms after it was due: p50 | p99 | most |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for label, count, schedule, seconds in [("idle, one pipeline a day", 1, "{ every: 1d }", 10), ("1,000 pipelines, each once a minute", 1000, "{ every: 1m, jitter: 59s, overlap: queue }", 150)]:
        files = {f"p{n:04}.yaml": f"schedule: {schedule}\nstages:\n{_generated('s0')}" for n in range(count)}
        folder = _project(ground, "serve", files)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with open(os.path.join(folder, "log"), "w") as log:
            daemon = subprocess.Popen([haul, "serve", "--listen", f"127.0.0.1:{port}"], cwd=folder, stderr=log)
        try:
            time.sleep(seconds)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                metrics = answer.read().decode()
            with open(f"/proc/{daemon.pid}/status") as file:
                peak = int(re.search(r"VmHWM:\s+(\d+)", file.read()).group(1)) / 1024
            open_files = len(os.listdir(f"/proc/{daemon.pid}/fd"))
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait()
        buckets = [(float(bound), int(n)) for bound, n in re.findall(r'lag_seconds_bucket\{le="([^"]+)"\} (\d+)', metrics)]
        total = buckets[-1][1]
        at_most = lambda share: f"{next(bound for bound, n in buckets if n >= share * total) * 1000:.0f}" if total else "-"
        summed = float(re.search(r"lag_seconds_sum (\S+)", metrics).group(1))
        mean = f"{summed / total * 1000:.1f}" if total else "-"
        lags = _lags(folder, haul)
        exact = [f"{lags[int(share * (len(lags) - 1))]}" if lags else "-" for share in (0.5, 0.99, 1)]
        rows.append(f"| {label} | {peak:.0f} | {open_files} | {total} | {mean} | {at_most(0.5)} | {at_most(0.99)} | {' | '.join(exact)} |")
    return "### `haul serve`\n\n" + "\n".join(rows)


def _lags(folder, haul):
    """Of each run, the time from when it was due to its first word in the journal, once its plan was made; in milliseconds, ascending."""
    shown = json.loads(subprocess.run([haul, "schedule", "--next", "1", "--json"], cwd=folder, check=True, stdout=subprocess.PIPE).stdout)
    delays = {pipeline["pipeline"]: pipeline["schedules"][0]["delay_ms"] for pipeline in shown}
    with sqlite3.connect(os.path.join(folder, ".haul", "state.db")) as journal:
        events = [json.loads(text) for (text,) in journal.execute("select event from haul_journal_events where kind = 'run_started'")]
    return sorted(event["at_ms"] - event["scheduled_ms"] - delays[event["pipeline"]] for event in events if not event["resumed"])


JOBS = {"dag-1000": dag, "validate-1000": validate, "version": version, "serve": serve}
