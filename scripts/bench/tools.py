"""Runs and times commands. Every tool sees the same environment, so that two systems differ in the directory alone."""

import os
import subprocess
import sys
import time

ENV = dict(
    os.environ, LC_ALL="C", GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_NOSYSTEM="1",
    GIT_AUTHOR_NAME="Bench", GIT_AUTHOR_EMAIL="bench@example.com",
    GIT_COMMITTER_NAME="Bench", GIT_COMMITTER_EMAIL="bench@example.com",
)


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(command, cwd=None, check=True, **kwargs):
    """Runs a command (a shell line or a list of arguments); its output is shown only when it fails."""
    done = subprocess.run(command, cwd=cwd, shell=isinstance(command, str), env=ENV, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)
    if check and done.returncode != 0:
        raise RuntimeError(f"{command}: exit {done.returncode}\n{done.stdout.decode()[-500:]}{done.stderr.decode()[-2000:]}")
    return done


def timed(command, cwd):
    """The wall time of a command, in seconds."""
    start = time.monotonic()
    done = subprocess.run(command, cwd=cwd, shell=isinstance(command, str), env=ENV, stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    took = time.monotonic() - start
    if done.returncode != 0:
        raise RuntimeError(f"{command}: exit {done.returncode}\n{done.stderr.decode()[-2000:]}")
    return took


def perl(program, cwd, *arguments):
    """The time that a perl program measures itself around its system calls, in seconds: no start-up in it."""
    head = "use strict; use Fcntl; use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC); my $t = clock_gettime(CLOCK_MONOTONIC);"
    tail = "printf \"%.9f\\n\", clock_gettime(CLOCK_MONOTONIC) - $t;"
    return float(run(["perl", "-e", head + program + tail, *map(str, arguments)], cwd).stdout)


def table_row(cells):
    return "| " + " | ".join(cells) + " |"


def seconds(value):
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms" if value >= 0.1 else f"{value * 1000:.2f} ms"


def is_mount(path):
    """Also true of a mount whose daemon is dead, on which stat fails."""
    with open("/proc/self/mountinfo") as mounts:
        return any(line.split()[4] == path for line in mounts)


def machine(path):
    system = os.uname()
    kind = run(["stat", "-f", "-c", "%T", path]).stdout.decode().strip()
    version = run([find_binary(None) or "true", "--version"], check=False).stdout.decode().strip()
    parts = [f"{os.cpu_count()} CPUs", f"Linux {system.release.split('-')[0]}", kind.replace("ext2/ext3", "ext4"), version]
    return ", ".join(part for part in parts if part)


def find_binary(given):
    if given:
        return os.path.abspath(given)
    targets = [os.environ.get("CARGO_TARGET_DIR"), os.path.expanduser("~/.cache/regentfs/target"), "target"]
    for target in targets:
        if target and os.access(f"{target}/release/regentfs", os.X_OK):
            return os.path.abspath(f"{target}/release/regentfs")
    return None


def choice(text, allowed, what):
    chosen = text.split(",")
    unknown = [name for name in chosen if name not in allowed]
    if unknown:
        sys.exit(f"{os.path.basename(sys.argv[0])}: no {what} {', '.join(unknown)}; there are: {', '.join(allowed)}")
    return chosen
