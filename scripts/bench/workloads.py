"""The work that is measured. A workload leaves the directory as it found it, but for what it could not undo unseen."""

import os
import sys
import time

from bench.tools import perl, run, timed
from bench.trees import RARE

GROUPS = []


def workload(*rows, rounds=1, fresh=False):
    """Registers a function (system, bench, round) -> {row: seconds}; `rows` are (name, what the table says).

    `rounds` multiplies --runs for short work; with `fresh`, the first time after a mount is measured as well.
    """
    def register(function):
        GROUPS.append((rows, function, rounds, fresh))
        return function
    return register


@workload(("status", "`git status` ({files:,} files)"), rounds=3, fresh=True)
def git_status(system, bench, number):
    return {"status": timed(["git", "status", "--porcelain"], system.path)}


@workload(("rg", "ripgrep for a rare string"), rounds=3, fresh=True)
def ripgrep(system, bench, number):
    return {"rg": timed(["rg", "-c", RARE, "."], system.path)}


@workload(("find", "find + stat"), rounds=3)
def find_stat(system, bench, number):
    return {"find": timed(["find", ".", "-printf", "%s %T@ %m\n"], system.path)}


@workload(("cat", "cat of all files"), rounds=2)
def cat_all(system, bench, number):
    return {"cat": timed(["xargs", "-0", "-a", bench.names, "cat"], system.path)}


@workload(("stats", "20,000 failing stats"), rounds=2)
def failing_stats(system, bench, number):
    program = "for my $i (1..100) { for my $j (1..200) { lstat(\"no_such_file_$j\") and die } }"
    return {"stats": perl(program, system.path)}


def extract(system, bench, number):
    path = f"{system.path}/untarred-{number}"
    archive = bench.tar(number)
    os.mkdir(path)
    return timed(["tar", "-xf", archive, "-C", path], system.path)


# All of one before the next, and nothing deleted before the files are made: ext4 does not use an inode again within a minute of
# its deletion, and is five times slower while it looks for another.
@workload(("untar", "untar of {tar:,} files"))
def untar(system, bench, number):
    return {"untar": extract(system, bench, number)}


@workload(("commit", "`git add` + `commit` of them"))
def add_and_commit(system, bench, number):
    if not os.path.exists(f"{system.path}/untarred-{number}"):
        extract(system, bench, number)
    took = timed(f"git add untarred-{number} && git commit -qm untarred-{number}", system.path)
    run("git reset -q HEAD~1", system.path)
    return {"commit": took}


@workload(("rm", "`rm -rf` of them"))
def remove(system, bench, number):
    if not os.path.exists(f"{system.path}/untarred-{number}"):
        extract(system, bench, number)
    return {"rm": timed(["rm", "-rf", f"untarred-{number}"], system.path)}


@workload(("switch", "branch switch there and back (500 files)"))
def branch_switch(system, bench, number):
    run("git status", system.path)
    # git takes what was written in the index's own second for possibly changed, and reads it again.
    time.sleep(1.1)
    return {"switch": timed("git switch -q other && git switch -q main", system.path)}


@workload(("write4k", "{writes:,} writes of 4 KiB"), rounds=2)
def small_writes(system, bench, number):
    program = """my $b = 'x' x 4096; sysopen(my $f, 'w4k', O_WRONLY|O_CREAT|O_TRUNC) or die;
                 for (1..$ARGV[0]) { syswrite($f, $b) == 4096 or die } close($f) or die;"""
    result = {"write4k": perl(program, system.path, bench.writes)}
    os.unlink(f"{system.path}/w4k")
    return result


@workload(("seqwrite", "{big} MiB sequential write"), ("seqread", "{big} MiB sequential read of it"))
def sequential(system, bench, number):
    result = {
        "seqwrite": timed(["dd", "if=/dev/zero", "of=big", "bs=1M", f"count={bench.big}"], system.path),
        "seqread": timed(["dd", "if=big", "of=/dev/null", "bs=1M"], system.path),
    }
    os.unlink(f"{system.path}/big")
    return result


def sqlite(mode, count):
    return (sys.executable, "-c", f"""
import sqlite3
db = sqlite3.connect('bench.db', isolation_level=None)
db.execute('PRAGMA journal_mode={mode}')
db.execute('CREATE TABLE t (n INTEGER, s TEXT)')
for n in range({count}):
    db.execute('INSERT INTO t VALUES (?, ?)', (n, 'x' * 100))
db.close()""")


@workload(("wal", "{commits:,} SQLite commits, WAL"))
def sqlite_wal(system, bench, number):
    return {"wal": sqlite_run(system, bench, "WAL")}


@workload(("sqlite", "{commits:,} SQLite commits, default journal"))
def sqlite_default(system, bench, number):
    return {"sqlite": sqlite_run(system, bench, "DELETE")}


def sqlite_run(system, bench, mode):
    took = timed(list(sqlite(mode, bench.commits)), system.path)
    for suffix in ("", "-wal", "-shm", "-journal"):
        if os.path.exists(f"{system.path}/bench.db{suffix}"):
            os.unlink(f"{system.path}/bench.db{suffix}")
    return took


@workload(("save", "save by rename, 1,000 times"), rounds=2)
def save_by_rename(system, bench, number):
    program = """my $b = 'y' x 4096; for my $i (1..1000) { my $n = 'saved-' . ($i % 100);
                 sysopen(my $f, "$n.tmp", O_WRONLY|O_CREAT|O_TRUNC) or die; syswrite($f, $b) or die; close($f) or die;
                 rename("$n.tmp", $n) or die; }"""
    result = {"save": perl(program, system.path)}
    run("rm -f saved-*", system.path)
    return result


@workload(("first", "first byte written into a {base} MiB base file"))
def first_byte(system, bench, number):
    """On a mount of its own, fresh each time, with the file in the page cache."""
    own = bench.large_file_system(system)
    own.unmount()
    run("cat large > /dev/null", own.base)
    own.remount_fresh()
    try:
        program = "sysopen(my $f, 'large', O_RDWR) or die; syswrite($f, 'z') == 1 or die; close($f) or die;"
        return {"first": perl(program, own.path)}
    finally:
        own.unmount()
