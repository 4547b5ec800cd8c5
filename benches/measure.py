"""Runs commands and says what they cost: wall time, CPU of client and server, peak memory, and what the rest of the machine took."""

import os
import statistics
import subprocess
import time
from dataclasses import dataclass

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Cost:
    """One run. `neighbour` is how many cores everything else on the machine kept busy meanwhile."""

    wall: float
    client_cpu: float
    server_cpu: float
    rss_mib: float
    neighbour: float
    bytes: int = 0


def cpu_of_server(pid):
    """CPU seconds of a PostgreSQL: its living processes, and the backends it has already waited for."""
    total = 0
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(name) == pid:
            total += sum(int(field) for field in fields[11:15])
        elif int(fields[1]) == pid:
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def busy():
    """CPU seconds the machine has spent on anything."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _wait, irq, softirq, *_ = (int(field) for field in file.readline().split()[1:])
    return (user + nice + system + irq + softirq) / TICKS


def run(command, cwd, server_pid=None, env=None, log=None):
    """Runs one shell command to its end. A failure shows what it said and is raised."""
    with open(log or os.path.join(cwd, "last.log"), "w+b") as said:
        server = cpu_of_server(server_pid) if server_pid else 0.0
        all_before = busy()
        start = time.monotonic()
        process = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", command], cwd=cwd, env={**os.environ, **(env or {})}, stdout=said, stderr=said, stdin=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said.seek(0)
            text = said.read().decode(errors="replace")
            raise RuntimeError(f"exit code {process.returncode}: {command}\n{text[-3000:]}")
    client = usage.ru_utime + usage.ru_stime
    served = cpu_of_server(server_pid) - server if server_pid else 0.0
    rest = max(0.0, busy() - all_before - client - served) / max(wall, 0.01)
    return Cost(wall, client, served, usage.ru_maxrss / 1024, rest)


@dataclass
class Case:
    """One way to do a job. `before` makes its ground fresh and is not timed; `after` may look at the result, and gives its bytes."""

    name: str
    command: str
    before: object = None
    after: object = None
    cwd: str = None
    rounds: int = 0


def compare(cases, rounds, ground):
    """Runs the cases interleaved, each round in another order, so that a slow minute of the machine hits all. The first case is the limit."""
    costs = {case.name: [] for case in cases}
    for turn in range(rounds):
        for place in range(len(cases)):
            case = cases[(place + turn) % len(cases)]
            if case.rounds and turn >= case.rounds:
                continue
            try:
                if case.before:
                    case.before()
                ground.settle()
                cost = run(case.command, case.cwd or ground.folder, ground.server_pid)
                if case.after:
                    cost.bytes = case.after() or 0
            except RuntimeError as failure:
                print(f"  {case.name}: FAILED: {failure}", flush=True)
                continue
            costs[case.name].append((turn, cost))
            print(
                f"  round {turn + 1} {case.name}: {cost.wall:.2f} s, client {cost.client_cpu:.2f}, server {cost.server_cpu:.2f} CPU-s,"
                f" {cost.rss_mib:.0f} MiB, neighbour {cost.neighbour:.1f}",
                flush=True,
            )
    return costs


def table(cases, costs):
    """A Markdown table: medians, and ratios to the limit of the same round."""
    limit = dict(costs[cases[0].name])
    rows = [
        "| case | n | wall s (min..max) | x wall | client CPU s | server CPU s | x CPU | peak MiB | bytes | neighbour |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        runs = costs[case.name]
        if not runs:
            rows.append(f"| {case.name} | 0 | failed | | | | | | | |")
            continue
        median = lambda of: statistics.median(of(cost) for _, cost in runs)
        ratio = lambda of: [of(cost) / of(limit[turn]) for turn, cost in runs if turn in limit]
        shown = lambda ratios: f"{statistics.median(ratios):.2f}" if ratios else "-"
        cpu = lambda cost: cost.client_cpu + cost.server_cpu
        walls = [cost.wall for _, cost in runs]
        size = median(lambda cost: cost.bytes)
        rows.append(
            f"| {case.name} | {len(runs)} | {statistics.median(walls):.2f} ({min(walls):.2f}..{max(walls):.2f}) | {shown(ratio(lambda c: c.wall))}"
            f" | {median(lambda c: c.client_cpu):.2f} | {median(lambda c: c.server_cpu):.2f} | {shown(ratio(cpu))}"
            f" | {median(lambda c: c.rss_mib):.0f} | {f'{size / 1e6:.0f} M' if size else '-'} | {median(lambda c: c.neighbour):.1f} |"
        )
    return "\n".join(rows)
