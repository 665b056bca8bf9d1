"""A mount of regentfs and its control socket: what is asked there has no start of a process in it."""

import ast
import json
import os
import re
import socket
import time

from bench.tools import ENV, run

LOG = "info,fuser=warn,regentfs::timeline=debug"


class Mounted:
    """A repository mounted in place. `laps` reads from daemon.log where the time of an operation went, in seconds."""

    def __init__(self, bench, repo, store):
        self.bench, self.repo, self.store = bench, repo, store
        self.read = 0

    def mount(self):
        ENV["REGENTFS_LOG"] = LOG
        run([self.bench.binary, "mount", self.repo, "--store", self.store], cwd="/")
        self.bench.mounted(self.repo)

    def unmount(self):
        if os.path.ismount(self.repo):
            run([self.bench.binary, "unmount", self.repo, "--store", self.store], cwd="/")

    def cli(self, *arguments):
        """The command line, as [program, ...]."""
        return [self.bench.binary, *arguments, "--repo", self.repo, "--store", self.store]

    def ask(self, request, first=None):
        """The rows of an answer. `first` is called when the first of them is there."""
        with socket.socket(socket.AF_UNIX) as asked:
            directory = os.open(self.store, os.O_PATH)
            try:
                # The path of a socket has at most 107 bytes.
                asked.connect(f"/proc/self/fd/{directory}/control.sock")
            finally:
                os.close(directory)
            asked.sendall(json.dumps(request).encode() + b"\n")
            rows = []
            with asked.makefile("rb") as answer:
                for line in answer:
                    answered = json.loads(line)
                    if "progress" in answered:
                        continue
                    if first:
                        first()
                        first = None
                    if "row" in answered:
                        rows.append(answered["row"])
                    elif "done" in answered:
                        return rows
                    else:
                        raise RuntimeError(f"{request}: {answered}")
        raise RuntimeError(f"{request}: the daemon went away")

    def snapshot(self):
        return self.ask({"snapshot": {"label": None}})[0]["id"]

    def rewind(self, to):
        return self.ask({"rewind": {"to": to}})

    def laps(self, what):
        """What daemon.log has of operations of this kind since the last call: [{phase: seconds}]."""
        # The line may come after the answer.
        time.sleep(0.05)
        with open(f"{self.store}/daemon.log", encoding="utf-8", errors="replace") as log:
            log.seek(self.read)
            text = log.read()
            self.read = log.tell()
        found = re.findall(rf"regentfs::timeline::machine: {what} us=(\[.*\])", re.sub(r"\x1b\[[0-9;]*m", "", text))
        return [{phase: us / 1e6 for phase, us in ast.literal_eval(one)} for one in found]

    def disk(self):
        """Bytes that versions and log take. Not what RocksDB sets aside for its next writes, nor what it and the daemon write for people."""
        run("sync")
        log = f"{self.store}/log"
        tables = sum(os.path.getsize(f"{log}/{name}") for name in os.listdir(log) if name.endswith((".sst", ".log")))
        return {"versions": disk(f"{self.store}/data"), "log": tables}


def disk(*paths):
    return sum(int(line.split()[0]) for line in run(["du", "-s", "-c", "--block-size=1", *paths]).stdout.splitlines()[-1:])
