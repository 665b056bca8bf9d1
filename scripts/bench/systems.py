"""The systems under test: how each of them shows a base directory, and how it is taken away again."""

import json
import os
import shutil

from bench.tools import run

TITLES = {
    "native": "plain directory", "overlayfs": "kernel overlayfs", "fuse-overlayfs": "fuse-overlayfs",
    "auto": "regentfs", "exact": "regentfs, exact", "off": "regentfs, recording off",
}


class Unavailable(Exception):
    """A system that cannot be measured here, and why."""


class System:
    """One way to see a base directory: `base` is the directory, `path` where the workloads run."""

    def __init__(self, name, place, bench):
        self.name, self.bench, self.place = name, bench, place
        self.base = f"{place}/repo"
        self.path = self.base
        self.serial = 0

    def mount(self):
        """Mounts, with everything earlier kept."""

    def unmount(self):
        pass

    def remount_fresh(self):
        """Mounts with an empty overlay."""
        self.unmount()
        self.serial += 1
        self.mount()

    def check(self):
        """Raises Unavailable when this machine cannot run it."""


class Overlay(System):
    def layers(self):
        place = f"{self.place}/layers-{self.serial}"
        self.path = f"{self.place}/mnt"
        for name in (self.path, f"{place}/upper", f"{place}/work"):
            os.makedirs(name, exist_ok=True)
        return f"lowerdir={self.base},upperdir={place}/upper,workdir={place}/work"

    def mount(self):
        run(["mount", "-t", "overlay", "overlay", "-o", self.layers(), self.path])
        self.bench.mounted(self.path)

    def unmount(self):
        if os.path.ismount(f"{self.place}/mnt"):
            run(["umount", f"{self.place}/mnt"])

    def check(self):
        if os.geteuid() != 0:
            raise Unavailable("needs root")


class FuseOverlay(Overlay):
    program = None

    def mount(self):
        run([self.program, "-o", self.layers(), self.path])
        self.bench.mounted(self.path)

    def unmount(self):
        path = f"{self.place}/mnt"
        if os.path.ismount(path):
            run(["umount", path] if os.geteuid() == 0 else ["fusermount3", "-u", path])

    def check(self):
        tools = os.path.expanduser("~/.cache/regentfs/tools/bin/fuse-overlayfs")
        self.program = shutil.which("fuse-overlayfs") or (tools if os.access(tools, os.X_OK) else None)
        if not self.program:
            raise Unavailable("not on PATH: cargo install fuse-overlayfs")


class Regentfs(System):
    """Mounted in place, as a user does it; `name` is the value of --record."""

    def store(self):
        return f"{self.place}/store-{self.serial}"

    def command(self, *arguments):
        return run([self.bench.binary, *arguments, "--store", self.store()], cwd="/")

    def mount(self):
        self.command("mount", self.base, "--record", self.name)
        self.bench.mounted(self.base)

    def unmount(self):
        if os.path.ismount(self.base):
            self.command("unmount", self.base)

    def daemon(self):
        return json.loads(self.command("status", "--json", "--repo", self.base).stdout.split(b"\n")[0])["pid"]

    def check(self):
        if not self.bench.binary:
            raise Unavailable("no regentfs binary: cargo build --release, or --bin")
        if not os.path.exists("/dev/fuse"):
            raise Unavailable("no /dev/fuse")
        probe = f"{self.place}/probe"
        os.makedirs(f"{probe}/repo")
        trial = Regentfs(self.name, probe, self.bench)
        try:
            trial.mount()
            if not os.path.ismount(trial.base):
                raise Unavailable("regentfs mount came back, but nothing is mounted")
            trial.unmount()
        except RuntimeError as error:
            raise Unavailable(f"cannot mount: {str(error).strip().splitlines()[-1]}") from error


KINDS = {"native": System, "overlayfs": Overlay, "fuse-overlayfs": FuseOverlay,
         "auto": Regentfs, "exact": Regentfs, "off": Regentfs}
