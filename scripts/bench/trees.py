"""The trees that the benchmark works on, made from a seed: the same everywhere, without a network."""

import io
import os
import random
import tarfile

from bench.tools import run

RARE = "quizzical_zephyr_of_the_benchmark"


class Trees:
    """Makes directory trees from a seed."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        words = ["".join(self.rng.choices("abcdefghijklmnopqrstuvwxyz", k=self.rng.randint(2, 10))) for _ in range(4000)]
        lines = (" " * (4 * self.rng.randint(0, 3)) + " ".join(self.rng.choices(words, k=self.rng.randint(1, 12))) + "\n"
                 for _ in range(50_000))
        self.pool = "".join(lines).encode()

    def size(self, median):
        return max(20, min(200_000, int(self.rng.lognormvariate(0, 1.1) * median)))

    def files(self, count, directories, median=3000, rare=0):
        """Yields (path, bytes), evenly over nested directories; `rare` of them hold the string that ripgrep looks for."""
        paths = ["."]
        for number in range(directories - 1):
            parent = paths[self.rng.randrange(max(1, len(paths) // 3))]
            paths.append(f"{parent}/{self.rng.choice(['src', 'lib', 'test', 'util', 'net', 'core'])}_{number}")
        special = set(self.rng.sample(range(count), rare))
        for number in range(count):
            path = f"{paths[number % len(paths)]}/file_{number}.{self.rng.choice(['rs', 'c', 'py', 'txt', 'md'])}"
            length = self.size(median)
            start = self.rng.randrange(len(self.pool) - length)
            mark = b"let x = \"%s\";\n" % RARE.encode() if number in special else b""
            yield path, b"// file %d %d\n" % (number, self.rng.getrandbits(64)) + self.pool[start:start + length] + mark

    def write(self, root, *arguments, **options):
        """Writes the files under `root` and returns their paths."""
        names = []
        for path, data in self.files(*arguments, **options):
            path = f"{root}/{path}"
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as out:
                out.write(data)
            names.append(path)
        return names

    def archive(self, path, *arguments, **options):
        """The same as a tar file, without making the files."""
        seen = set()
        with tarfile.open(path, "w") as tar:
            for name, data in self.files(*arguments, **options):
                parts = name.split("/")[1:-1]
                for depth in range(1, len(parts) + 1):
                    directory = "/".join(parts[:depth])
                    if directory not in seen:
                        seen.add(directory)
                        tar.addfile(entry(directory, type=tarfile.DIRTYPE, mode=0o755))
                tar.addfile(entry(name[2:], size=len(data), mode=0o644), io.BytesIO(data))


def entry(name, **fields):
    info = tarfile.TarInfo(name)
    info.mtime = 1_700_000_000
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def make_repository(path, files, directories):
    """The base of most workloads: a committed, packed repository with a second branch that differs in 500 files."""
    trees = Trees(1)
    os.makedirs(path)
    names = trees.write(path, files, directories, rare=3)
    run("git init -q -b main && git config gc.auto 0 && git config maintenance.auto false && git add -A && git commit -qm base", path)
    run("git checkout -q -b other", path)
    for name in random.Random(2).sample(names, min(500, files // 4)):
        with open(name, "ab") as out:
            out.write(b"a line of the other branch\n")
    run("git commit -qam other && git checkout -q main && git gc -q", path)
