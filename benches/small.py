"""Measurements without a server: what haul itself costs."""

import os
import shutil
import statistics

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


JOBS = {"dag-1000": dag, "validate-1000": validate, "version": version}
