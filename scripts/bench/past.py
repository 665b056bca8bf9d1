"""Ways to keep a state of a directory and to go back to it. The same work for each of them: files are changed, kept, changed, and taken back."""

import os
import shutil

from bench.daemon import Mounted, disk
from bench.systems import Unavailable
from bench.tools import run, timed

TITLES = {
    "regentfs": "regentfs", "stash": "`git stash -u`", "shadow": "shadow git", "cp": "`cp -a`", "btrfs": "btrfs snapshot", "reflink": "`cp -a --reflink` on btrfs",
}
IMAGE = 12 << 30


class Past:
    """`path` is the directory; `save` and `back` take the time that a user waits, in seconds, start of the commands included."""

    def __init__(self, place, bench):
        self.place, self.bench = place, bench
        self.path = f"{place}/repo"
        self.count = 0

    def check(self):
        """Raises Unavailable when this machine cannot do it."""

    def start(self, template):
        run(["cp", "-a", template, self.path])

    def tidy(self):
        """What is left over of the round, unmeasured."""

    def used(self):
        """Bytes that the kept states take on disk."""
        run("sync")
        return disk(f"{self.place}/kept") if os.path.exists(f"{self.place}/kept") else 0

    def end(self):
        shutil.rmtree(self.place, ignore_errors=True)


class Regentfs(Past):
    def check(self):
        if not self.bench.binary or not os.path.exists("/dev/fuse"):
            raise Unavailable("no regentfs binary (cargo build --release, or --bin) or no /dev/fuse")

    def start(self, template):
        super().start(template)
        self.mounted = Mounted(self.bench, self.path, f"{self.place}/kept")
        self.mounted.mount()

    def save(self):
        took = timed(self.mounted.cli("snapshot"), "/")
        self.last = self.mounted.ask({"snapshots": {"newest": 1, "brief": True}})[0]["id"]
        return took

    def back(self):
        return timed(self.mounted.cli("rewind", self.last), "/")

    def used(self):
        return sum(self.mounted.disk().values())

    def end(self):
        self.mounted.unmount()
        super().end()


class Stash(Past):
    """What was changed is put away and taken out again at once: the work is to go on. In the repository's own .git."""

    def save(self):
        return timed("git stash push -q -u && git stash apply -q", self.path)

    def back(self):
        return timed("git reset -q --hard && git clean -qfd && git stash apply -q", self.path)

    def tidy(self):
        run("git reset -q --hard && git clean -qfd && git stash clear", self.path)

    def used(self):
        run("sync")
        return disk(f"{self.path}/.git")


class Shadow(Past):
    """A second repository of the same files: what several agents do."""

    def git(self, command):
        return f"git --git-dir={self.place}/kept --work-tree={self.path} {command}"

    def start(self, template):
        super().start(template)
        run(f"git init -q --bare {self.place}/kept && {self.git('config gc.auto 0')}", self.path)
        run(f"{self.git('add -A')} && {self.git('commit -qm base')}", self.path)

    def save(self):
        return timed(f"{self.git('add -A')} && {self.git('commit -qm step --allow-empty')}", self.path)

    def back(self):
        return timed(f"{self.git('reset -q --hard')} && {self.git('clean -qfd')}", self.path)


class Copy(Past):
    def save(self):
        self.count += 1
        os.makedirs(f"{self.place}/kept", exist_ok=True)
        self.last = f"{self.place}/kept/{self.count}"
        return timed(["cp", "-a", "--reflink=auto", self.path, self.last], self.place)

    def back(self):
        """Who is in the directory stays in the old one; taking that away is not measured."""
        return timed(f"mv repo old && cp -a --reflink=auto {self.last} repo", self.place)

    def tidy(self):
        # One state is enough, and the disk is not endless.
        run(["rm", "-rf", f"{self.place}/old", f"{self.place}/kept"])


class OnBtrfs(Past):
    """A file with btrfs in it, mounted through a loop device. It needs root."""

    def check(self):
        if os.geteuid() != 0:
            raise Unavailable("needs root")
        if not shutil.which("mkfs.btrfs"):
            raise Unavailable("no mkfs.btrfs: apt install btrfs-progs")
        self.outside, self.place = self.place, f"{self.place}/btrfs"
        self.path = f"{self.place}/repo"
        os.makedirs(self.place)
        image = f"{self.outside}/image"
        with open(image, "wb") as file:
            file.truncate(IMAGE)
        try:
            run(["mkfs.btrfs", "-q", image])
            run(["mount", "-o", "loop", image, self.place])
        except RuntimeError as error:
            raise Unavailable(f"cannot mount btrfs: {str(error).strip().splitlines()[-1]}") from error
        self.bench.mounted(self.place)

    def used(self):
        run(["sync", "-f", self.place])
        free = os.statvfs(self.place)
        return (free.f_blocks - free.f_bfree) * free.f_frsize

    def end(self):
        run(["umount", self.place], check=False)
        shutil.rmtree(self.outside, ignore_errors=True)


class Reflink(OnBtrfs, Copy):
    pass


class Btrfs(OnBtrfs):
    def start(self, template):
        run(["btrfs", "subvolume", "create", self.path])
        run(["cp", "-a", f"{template}/.", self.path])

    def save(self):
        self.count += 1
        self.last = f"{self.place}/snapshot-{self.count}"
        return timed(["btrfs", "subvolume", "snapshot", "-r", self.path, self.last], self.place)

    def back(self):
        """Who is in the directory stays in the old one."""
        self.count += 1
        return timed(f"mv repo old-{self.count} && btrfs subvolume snapshot {self.last} repo", self.place)


KINDS = {"regentfs": Regentfs, "stash": Stash, "shadow": Shadow, "cp": Copy, "btrfs": Btrfs, "reflink": Reflink}
