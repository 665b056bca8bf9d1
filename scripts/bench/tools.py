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
