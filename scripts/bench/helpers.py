"""Programs that run beside what is measured, each as a process of its own: `python3 helpers.py ROLE ARGUMENT...`, from the mount."""

import json
import os
import random
import signal
import sys
import time


def reader(path, old, limit):
    """Reads a file over and over, and prints when (CLOCK_MONOTONIC) it was opened anew and had the old bytes."""
    with open(old, "rb") as kept:
        wanted = kept.read()
    end = time.monotonic() + float(limit)
    print("ready", flush=True)
    while time.monotonic() < end:
        with open(path, "rb") as file:
            found = file.read()
        if found == wanted:
            print(time.monotonic())
            return
        # The processors are for the daemon.
        time.sleep(0.0002)
    print("never")


def writer(name):
    """Writes 4 KiB, or saves them by rename, until it is told to end; prints how long each took, in seconds."""
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    took, block, choose = {"write": [], "save": []}, b"w" * 4096, random.Random(name)
    out = os.open(f"written-{name}", os.O_CREAT | os.O_RDWR, 0o644)
    print("ready", flush=True)
    while not stop:
        start = time.monotonic()
        kind = "write" if choose.random() < 0.8 else "save"
        if kind == "write":
            os.pwrite(out, block, 4096 * choose.randrange(1000))
        else:
            with open(f"saved-{name}.tmp", "wb") as file:
                file.write(block)
            os.rename(f"saved-{name}.tmp", f"saved-{name}")
        took[kind].append(time.monotonic() - start)
        time.sleep(0.001)
    print(json.dumps(took))


if __name__ == "__main__":
    {"reader": reader, "writer": writer}[sys.argv[1]](*sys.argv[2:])
