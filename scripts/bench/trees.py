"""The trees that the benchmark works on, made from a seed: the same everywhere, without a network."""

import os
import random

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

    def fill(self, root, files, directories, median=3000, rare=0):
        """Writes the files, evenly over nested directories; `rare` of them hold the string that ripgrep looks for."""
        paths = [root]
        for number in range(directories - 1):
            parent = paths[self.rng.randrange(max(1, len(paths) // 3))]
            path = f"{parent}/{self.rng.choice(['src', 'lib', 'test', 'util', 'net', 'core'])}_{number}"
            os.makedirs(path)
            paths.append(path)
        special = set(self.rng.sample(range(files), rare))
        names = []
        for number in range(files):
            path = f"{paths[number % len(paths)]}/file_{number}.{self.rng.choice(['rs', 'c', 'py', 'txt', 'md'])}"
            length = self.size(median)
            start = self.rng.randrange(len(self.pool) - length)
            with open(path, "wb") as out:
                out.write(b"// file %d %d\n" % (number, self.rng.getrandbits(64)))
                out.write(self.pool[start:start + length])
                if number in special:
                    out.write(b"let x = \"%s\";\n" % RARE.encode())
            names.append(path)
        return names


def make_repository(path, files, directories):
    """The base of most workloads: a committed, packed repository with a second branch that differs in 500 files."""
    trees = Trees(1)
    os.makedirs(path)
    names = trees.fill(path, files, directories, rare=3)
    run("git init -q -b main && git config gc.auto 0 && git config maintenance.auto false && git add -A && git commit -qm base", path)
    run("git checkout -q -b other", path)
    for name in random.Random(2).sample(names, min(500, files // 4)):
        with open(name, "ab") as out:
            out.write(b"a line of the other branch\n")
    run("git commit -qam other && git checkout -q main && git gc -q", path)
