"""Holds shared mappings of whatever file is at a path, and writes to them.

usage: mapper.py PATH; each line on standard input is a step, answered by one line.

The bytes of a mapping are those that were there when it was made and those that were written through it since, whatever becomes of the name.
"""

import mmap
import os
import sys

PATH = sys.argv[1]
SIZE = 300_000
held = {}


def look():
    """Maps what is at the path now, if it is no file that is mapped already."""
    os.makedirs(os.path.dirname(PATH), exist_ok=True)
    fd = os.open(PATH, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        stat = os.fstat(fd)
        if stat.st_ino in held:
            return
        if stat.st_size < SIZE:
            os.ftruncate(fd, SIZE)
        mapped = mmap.mmap(fd, SIZE)
        held[stat.st_ino] = (mapped, bytearray(mapped[:]))
        while len(held) > 4:
            held.pop(next(iter(held)))[0].close()
    finally:
        os.close(fd)


def step(number):
    for ino, (mapped, known) in held.items():
        if mapped[:] != known:
            wrong = [at for at in range(SIZE) if mapped[at] != known[at]]
            return f"the mapping of {ino} has other bytes from {wrong[0]} to {wrong[-1]}"
    try:
        look()
    except OSError as error:
        # Its directory was taken away just now.
        if not isinstance(error, (FileNotFoundError, FileExistsError, NotADirectoryError)):
            return f"mapping: {error!r}"
        return "no file"
    for ino, (mapped, known) in held.items():
        at = (number * 7919 + ino * 31) % (SIZE - 9000)
        data = bytes([number % 251 + 1]) * (number % 9000 + 1)
        mapped[at:at + len(data)] = data
        known[at:at + len(data)] = data
        if number % 3:
            mapped.flush()
    # Between two steps nothing is dirty.
    for mapped, _ in held.values():
        mapped.flush()
    return "ok"


for line in sys.stdin:
    print(step(int(line)), flush=True)
