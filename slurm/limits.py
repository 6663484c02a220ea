"""Says what SLURM would never start: it queues such jobs without a word, and Snakemake waits.

Usage:
    python slurm/limits.py check RULE=MINUTES RULE=MINUTES@PARTITION ...
    python slurm/limits.py watch PROCESS

``check`` ends with status 1 and a line per rule that asks for more time than its partition (the
cluster's default one where none is named) allows, or that names one that is not there. ``watch``
looks once a minute, as long as the process lives, at why jobs from this folder wait, and says each
reason that does not end by waiting once. SLURM has many more of those than times: accounts, quality
of service, partitions that are down.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

EVERY = float(os.environ.get("EQUIREG_WATCH_SECONDS", "60"))  # between two looks at the queue
NEVER = re.compile(
    r"(Partition(TimeLimit|NodeLimit|Down|Inactive)"
    r"|AccountNotAllowed|QOSNotAllowed|InvalidAccount|InvalidQOS|BadConstraints"
    r"|(QOS|Assoc|Association)\w*(PerJob|Wall|TimeLimit)\w*"
    r"|MaxMemPerLimit|MinMemory\w*|JobHeld\w*|JobHoldMaxRequeue|DependencyNeverSatisfied)"
)
TIME = re.compile("Time|Wall")
OTHER = (
    "another partition, account or quality of service (--default-resources slurm_partition=NAME "
    "slurm_account=NAME), or whoever runs the cluster"
)
REMEDY = (
    "a partition that allows it (slurm_partition), less time (--set-resources {rule}:runtime="
    "MINUTES; a training goes on from its checkpoint), or shorter jobs (grid: seeds_per_job)"
)


def run(*words: str) -> str:
    """What a command of SLURM says; nothing where it fails or is not there."""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def minutes(time: str) -> float:
    """A time as SLURM writes it, ``[days-]hours:minutes:seconds`` or UNLIMITED, in minutes."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", time)
    if found is None:
        return float("inf")
    days, hours, whole, seconds = (int(part or 0) for part in found.groups())
    return 24 * 60 * days + 60 * hours + whole + seconds / 60


def partitions() -> dict[str, dict[str, str]]:
    """What SLURM says of each partition; the default one also by the name of no one."""
    found = {}
    for line in run("scontrol", "show", "partition", "--oneliner").splitlines():
        told = dict(word.split("=", 1) for word in line.split() if "=" in word)
        found[told["PartitionName"]] = told
        if told.get("Default") == "YES":
            found[""] = told
    return found


def refused(asked: Iterable[str], known: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """A line for each of ``asked``, as ``check`` gets them, that SLURM would never start."""
    for words in asked:
        rule, _, rest = words.partition("=")
        wanted, _, names = rest.partition("@")
        if missing := [name for name in names.split(",") if name and name not in known]:
            there = ", ".join(sorted(filter(None, known)))
            yield f"{rule} asks for partition {missing[0]}; accepted: {there}"
            continue
        offers = [known[name] for name in names.split(",") if name in known]
        limits = {offer["PartitionName"]: offer.get("MaxTime", "UNLIMITED") for offer in offers}
        if limits and all(minutes(limit) < float(wanted) for limit in limits.values()):
            allowed = ", ".join(f"{name} {limit}" for name, limit in limits.items())
            yield (
                f"{rule} asks for {wanted} minutes, more than its partition allows ({allowed}), "
                f"and would wait for ever; accepted: {REMEDY.format(rule=rule)}"
            )


def waiting(folder: Path) -> dict[tuple[str, str, str], list[str]]:
    """The jobs of this folder that wait for what does not come: by reason, rule and partition."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for line in run("squeue", "--me", "-h", "-t", "PD", "-o", "%i\t%r\t%P\t%Z\t%k").splitlines():
        job, reason, partition, place, comment = (line.split("\t") + [""] * 5)[:5]
        if NEVER.fullmatch(reason) and Path(place) == folder:
            rule = re.sub(r"^rule_|_wildcards_.*$", "", comment)
            found.setdefault((reason, rule, partition), []).append(job)
    return found


def watch(process: int) -> None:
    """Say each reason once, until the process has ended."""
    try:
        ended = os.pidfd_open(process)
    except ProcessLookupError:
        return
    said: set[tuple[str, str, str]] = set()
    # A process that has ended, though nobody has asked how, ends the watch: whoever waits for the
    # end of what it says would else wait for this one, which has the same output.
    pause = min(1.0, EVERY)
    while not select.select([ended], [], [], pause)[0]:
        pause = EVERY
        for what, jobs in waiting(Path.cwd()).items():
            if what not in said:
                said.add(what)
                reason, rule, partition = what
                remedy = REMEDY.format(rule=rule) if TIME.search(reason) else OTHER
                print(
                    f"equireg: SLURM will not start {', '.join(jobs)} ({rule}, partition "
                    f"{partition}), for {reason}; what helps is {remedy}; or scancel "
                    "them",
                    file=sys.stderr,
                    flush=True,
                )


def main() -> int:
    """Do what the first word says."""
    verb, *words = sys.argv[1:]
    if verb == "watch":
        watch(int(words[0]))
        return 0
    lines = list(refused(words, partitions()))
    for line in lines:
        print(f"equireg: {line}", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
