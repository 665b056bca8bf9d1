"""A random program that reads files in a mount in every way there is, and logs what it got.

usage: worker.py SEED ROOT OUTSIDE LOG CONFIG

ROOT is the mount, OUTSIDE a directory beside it, LOG takes one JSON object a line: pid, how, path (relative to ROOT), off, len: the
bytes that this process has seen by then. CONFIG is a JSON object: the names of the files to use by kind; `budget`, the
steps of a program; `pass`, whether to pass descriptors over sockets; `forks_seen`, whether children may read through mappings of
files that their parent has closed.

Every process of the program draws from a generator of its own, named by its place in the tree of processes, so that a seed stands
for one program, whatever the scheduler does.
"""

import ctypes
import errno
import json
import mmap
import os
import random
import signal
import socket
import sys
import threading
import time

SEED, ROOT, OUTSIDE, LOG, CONFIG = sys.argv[1:6]
CONFIG = json.loads(CONFIG)
LOG_FD = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
LIBC = ctypes.CDLL(None, use_errno=True)
LENGTHS = [1, 10, 512, 4096, 5000, 65536, 131072, 200000]


def log(how, path, off, length, pid=None, passed=False):
    if length > 0:
        line = {"pid": pid or os.getpid(), "how": how, "path": path, "off": off, "len": length, "passed": passed}
        os.write(LOG_FD, (json.dumps(line) + "\n").encode())


def under(path):
    return os.path.join(ROOT, path)


class File:
    """An open file description; children share it."""

    def __init__(self, path, flags=os.O_RDONLY):
        self.path = path
        self.flags = flags
        self.fd = os.open(under(path), flags, 0o644)
        # What Python opens is closed at an exec; a tool shall inherit it.
        os.set_inheritable(self.fd, True)
        self.ino = os.fstat(self.fd).st_ino

    def size(self):
        return os.fstat(self.fd).st_size

    def spot(self, rng):
        """An offset inside and a length, with a taste for beginnings, ends and page edges."""
        size = self.size()
        length = rng.choice(LENGTHS)
        kind = rng.randrange(4)
        if kind == 0:
            return 0, length
        if kind == 1:
            return max(0, size - length + rng.choice([0, 0, 100])), length
        if kind == 2:
            return rng.randrange(0, size + 1) // 4096 * 4096, length
        return rng.randrange(0, size + 1), length


# Reads at a place of their own: these may run beside others on the same descriptor.


def pread(f, rng):
    off, n = f.spot(rng)
    log("pread64", f.path, off, len(os.pread(f.fd, n, off)))


def preadv(f, rng):
    off, n = f.spot(rng)
    buffers = [bytearray(1 + n // 3), bytearray(1 + n // 2)]
    log("preadv", f.path, off, os.preadv(f.fd, buffers, off))


def direct(f, rng):
    """O_DIRECT past the page cache, from a handle of its own."""
    fd = os.open(under(f.path), os.O_RDONLY | os.O_DIRECT)
    try:
        buffer = mmap.mmap(-1, 65536)
        off = rng.randrange(0, f.size() + 1) // 4096 * 4096
        log("preadv", f.path, off, os.preadv(fd, [buffer], off))
    finally:
        os.close(fd)


def is_open(f):
    """Whether this process still has the descriptor: nothing tells the daemon that a mapping alone was inherited."""
    try:
        return f.ino == os.fstat(f.fd).st_ino
    except OSError:
        return False


def touch(f, mapping, rng):
    size = len(mapping)
    off = rng.randrange(0, size)
    n = min(rng.choice(LENGTHS), size - off)
    checksum = sum(mapping[off : off + n : 512])
    log("mmap", f.path, off, n)
    return checksum


def mapped(f, rng, keep=None):
    size = f.size()
    if size == 0:
        return
    flags = rng.choice([mmap.MAP_SHARED, mmap.MAP_PRIVATE])
    mapping = mmap.mmap(f.fd, size, flags=flags, prot=mmap.PROT_READ)
    for _ in range(rng.randrange(1, 4)):
        touch(f, mapping, rng)
    if keep is not None and rng.random() < 0.5:
        keep.append((f, mapping))
    else:
        mapping.close()


def sendfile(f, rng, off=None, n=None, seek=False):
    if off is None:
        off, n = f.spot(rng)
    target = rng.choice(["file", "pipe", "socket"])
    at = os.lseek(f.fd, 0, os.SEEK_CUR) if seek else off
    given = None if seek else off
    close = []
    try:
        if target == "file":
            out = os.open(os.path.join(OUTSIDE, "sent"), os.O_WRONLY | os.O_CREAT, 0o644)
            close = [out]
        elif target == "pipe":
            back, out = os.pipe()
            close = [back, out]
            n = min(n, 65536)
        else:
            a, b = socket.socketpair()
            a.setblocking(False)
            out = a.fileno()
            close = [a.detach(), b.detach()]
        log("sendfile", f.path, at, os.sendfile(out, f.fd, given, n))
    except BlockingIOError:
        pass
    finally:
        for fd in close:
            os.close(fd)


def splice(f, rng, seek=False):
    off, n = f.spot(rng)
    at = os.lseek(f.fd, 0, os.SEEK_CUR) if seek else off
    back, out = os.pipe()
    try:
        got = os.splice(f.fd, out, min(n, 65536), offset_src=None if seek else off)
        log("splice", f.path, at, got)
    finally:
        os.close(back)
        os.close(out)


def copy_range(f, rng):
    """To a file in the mount, or outside of it: that, most kernels refuse."""
    off, n = f.spot(rng)
    name = f"copies/{os.getpid()}-{rng.randrange(10**9)}"
    target = under(name) if rng.random() < 0.8 else os.path.join(OUTSIDE, os.path.basename(name))
    out = os.open(target, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        log("copy_file_range", f.path, off, os.copy_file_range(f.fd, out, n, offset_src=off))
    except OSError as e:
        if e.errno not in (errno.EXDEV, errno.EINVAL):
            raise
    finally:
        os.close(out)


POSITIONED = [pread, pread, preadv, direct, mapped, sendfile, splice, copy_range]


# Reads at the file's own offset: one at a time on a descriptor.


def read(f, rng):
    if rng.random() < 0.5:
        os.lseek(f.fd, f.spot(rng)[0], os.SEEK_SET)
    for _ in range(rng.randrange(1, 4)):
        at = os.lseek(f.fd, 0, os.SEEK_CUR)
        log("read", f.path, at, len(os.read(f.fd, rng.choice(LENGTHS))))


def readv(f, rng):
    at = os.lseek(f.fd, f.spot(rng)[0], os.SEEK_SET)
    n = rng.choice(LENGTHS)
    log("readv", f.path, at, os.readv(f.fd, [bytearray(n), bytearray(100)]))


def sendfile_on(f, rng):
    os.lseek(f.fd, f.spot(rng)[0], os.SEEK_SET)
    sendfile(f, rng, off=0, n=rng.choice(LENGTHS), seek=True)


def splice_on(f, rng):
    os.lseek(f.fd, f.spot(rng)[0], os.SEEK_SET)
    splice(f, rng, seek=True)


SEQUENTIAL = [read, read, read, readv, sendfile_on, splice_on]


def fork(body):
    """Runs body in a child and returns its pid; it leaves with 0, or 99 when body raised."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            body()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def reap(pid):
    status = os.waitpid(pid, 0)[1]
    if status != 0:
        raise RuntimeError(f"the child {pid} ended with {status:#x}")


def run_tool(argv, stdin=None, spawn=False):
    """Runs a program with its output thrown away; by fork and exec, or by vfork."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        if spawn:
            actions = [(os.POSIX_SPAWN_DUP2, null, 1)]
            if stdin is not None:
                actions.append((os.POSIX_SPAWN_DUP2, stdin, 0))
            return os.posix_spawn(argv[0], argv, os.environ, file_actions=actions)

        def body():
            os.dup2(null, 1)
            if stdin is not None:
                os.dup2(stdin, 0)
            os.execv(argv[0], argv)

        return fork(body)
    finally:
        os.close(null)


def tool_by_name(rng):
    """A program of the mount reads a file of the mount."""
    path = rng.choice(CONFIG["small"] + CONFIG["large"])
    size = os.stat(under(path)).st_size
    if rng.random() < 0.3:
        pid = run_tool([under("bin/script"), under(path)], spawn=rng.random() < 0.5)
        reap(pid)
        # The shell that it becomes reads it once more.
        for how in ("exec", "tool"):
            log(how, "bin/script", 0, os.stat(under("bin/script")).st_size, pid)
    else:
        pid = run_tool([under("bin/cat"), under(path)], spawn=rng.random() < 0.5)
        reap(pid)
        log("exec", "bin/cat", 0, 64, pid)
    log("tool", path, 0, size, pid)


def tool_inherits(f, rng):
    """cat <&fd: another program, from where the offset is to the end."""
    at = os.lseek(f.fd, f.spot(rng)[0], os.SEEK_SET)
    if rng.random() < 0.5:
        # So that the page cache answers.
        while n := len(os.read(f.fd, 65536)):
            here = os.lseek(f.fd, 0, os.SEEK_CUR)
            log("read", f.path, here - n, n)
        os.lseek(f.fd, at, os.SEEK_SET)
    inside = rng.random() < 0.5
    pid = run_tool([under("bin/cat") if inside else "/bin/cat"], stdin=f.fd, spawn=rng.random() < 0.5)
    reap(pid)
    if inside:
        log("exec", "bin/cat", 0, 64, pid)
    log("tool", f.path, at, os.lseek(f.fd, 0, os.SEEK_CUR) - at, pid)


def rdwr(rng):
    """Reads what it wrote, and what was there before."""
    f = File(rng.choice(CONFIG["live"]), os.O_RDWR)
    for _ in range(3):
        off, n = f.spot(rng)
        os.pwrite(f.fd, bytes([rng.randrange(256)]) * min(n, 20000), off)
        log("pread64", f.path, off, len(os.pread(f.fd, 30000, off)))
    os.close(f.fd)
    f = File(f"copies/own-{os.getpid()}-{rng.randrange(10**9)}", os.O_RDWR | os.O_CREAT)
    os.write(f.fd, b"x" * rng.choice(LENGTHS))
    pread(f, rng)
    mapped(f, rng)
    os.ftruncate(f.fd, f.size() + 9000)
    pread(f, rng)
    os.close(f.fd)


def written_meanwhile(rng):
    """One process writes while others read, opened before and after the first write."""
    path = rng.choice(CONFIG["live"])
    early = File(path)
    pread(early, rng)
    start_back, start = os.pipe()

    def writer():
        f = File(path, rng.choice([os.O_WRONLY, os.O_WRONLY | os.O_APPEND, os.O_RDWR]))
        mine = random.Random(f"{SEED}:writer")
        for i in range(8):
            off, n = f.spot(mine)
            os.pwrite(f.fd, b"%d" % (i % 10) * min(n, 30000), off)
            if i == 0:
                os.write(start, b"x")
            if i == 4:
                os.ftruncate(f.fd, f.size() + 70000)
            time.sleep(0.001)
        os.close(f.fd)

    pid = fork(writer)
    os.read(start_back, 1)
    late = File(path)
    for _ in range(6):
        for f in (early, late):
            rng.choice([pread, preadv, mapped, sendfile, splice])(f, rng)
    reap(pid)
    os.close(start)
    os.close(start_back)
    for f in (early, late):
        pread(f, rng)
        read(f, rng)
        os.close(f.fd)


def gone(rng):
    """Reads a file that has lost its name, or got another one."""
    path = CONFIG["gone"].pop()
    f = File(path)
    pread(f, rng)
    if rng.random() < 0.5:
        os.unlink(under(path))
    else:
        os.rename(under(path), under(path + "-renamed"))
    pread(f, rng)
    read(f, rng)
    os.close(f.fd)


def same_file(rng):
    """Several processes have one large file open at once, each with a handle of its own."""
    path = rng.choice(CONFIG["large"])
    seeds = [rng.randrange(10**9) for _ in range(3)]

    def body(seed):
        mine = random.Random(seed)
        f = File(path)
        for _ in range(4):
            mine.choice(POSITIONED)(f, mine)
        read(f, mine)

    pids = [fork(lambda s=s: body(s)) for s in seeds]
    for pid in pids:
        reap(pid)


def threads(files, rng):
    def body(seed):
        mine = random.Random(seed)
        f = mine.choice(files) if files and mine.random() < 0.7 else File(mine.choice(CONFIG["large"]))
        for _ in range(3):
            mine.choice(POSITIONED)(f, mine)

    # A thread may die of nothing: its error is kept.
    failed = []

    def guarded(seed):
        try:
            body(seed)
        except BaseException as e:
            failed.append(e)

    running = [threading.Thread(target=guarded, args=(rng.randrange(10**9),)) for _ in range(3)]
    for t in running:
        t.start()
    for t in running:
        t.join()
    if failed:
        raise failed[0]


def inherited(files, maps, rng, depth):
    """A child that reads what it has from its parent, at once, alone or beside its parent."""
    f = rng.choice(files)
    off, n = f.spot(rng)
    # The page cache has it from now on, and will answer the child.
    log("pread64", f.path, off, len(os.pread(f.fd, n, off)))
    seed = rng.randrange(10**9)
    late = rng.random() < 0.3

    def body():
        log("pread64", f.path, off, len(os.pread(f.fd, n, off)))
        mine = random.Random(seed)
        for other, mapping in maps[:2]:
            if CONFIG["forks_seen"] or is_open(other):
                touch(other, mapping, mine)
        if depth > 0 and mine.random() < 0.6:
            program(depth - 1, mine, files, maps)
        if mine.random() < 0.4:
            # A grandchild that outlives its parent: the last word is its.
            def orphan():
                time.sleep(0.02)
                log("pread64", f.path, off, len(os.pread(f.fd, n, off)))

            fork(orphan)

    pid = fork(body)
    if not late:
        reap(pid)
        return
    for _ in range(3):
        rng.choice(POSITIONED)(f, rng)
    reap(pid)


def killed(files, rng):
    """A child that reads through the page cache and is killed before it can close anything."""
    f = rng.choice(files)
    off, n = f.spot(rng)
    log("pread64", f.path, off, len(os.pread(f.fd, n, off)))

    def body():
        log("pread64", f.path, off, len(os.pread(f.fd, n, off)))
        os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(fork(body), 0)


def passed(rng):
    """A descriptor over a socket, to a process that was there before the file was opened."""
    ours, theirs = socket.socketpair()
    path = rng.choice(CONFIG["small"] + CONFIG["large"])
    seed = rng.randrange(10**9)

    def body():
        _, fds, _, _ = socket.recv_fds(theirs, 10, 1)
        mine = random.Random(seed)
        off, n = mine.randrange(200), 3000
        log("pread64", path, off, len(os.pread(fds[0], n, off)), passed=True)

    pid = fork(body)
    f = File(path)
    # All of it is in the page cache.
    for off in range(0, f.size(), 1 << 20):
        log("pread64", path, off, len(os.pread(f.fd, 1 << 20, off)))
    socket.send_fds(ours, [b"x"], [f.fd])
    reap(pid)
    os.close(f.fd)
    ours.close()
    theirs.close()


def program(depth, rng, files, maps):
    files = list(files)
    own = []
    maps = list(maps)
    for _ in range(CONFIG["budget"]):
        if len(files) < 4 or rng.random() < 0.2:
            kind = rng.choice(["small", "large", "large"])
            own.append(File(rng.choice(CONFIG[kind])))
            files.append(own[-1])
        step = rng.randrange(16)
        f = rng.choice(files)
        if step < 4:
            rng.choice(POSITIONED)(f, rng)
        elif step < 7:
            # An inherited descriptor may be in use by others: its offset is theirs too.
            rng.choice(SEQUENTIAL)(rng.choice(own) if own else File(rng.choice(CONFIG["small"])), rng)
        elif step == 7:
            mapped(f, rng, keep=maps)
        elif step == 8:
            threads(files, rng)
        elif step == 9:
            tool_by_name(rng)
        elif step == 10 and own:
            tool_inherits(rng.choice(own), rng)
        elif step == 11:
            rdwr(rng)
        elif step in (12, 13) and depth > 0:
            inherited(files, maps, rng, depth)
        elif step == 14:
            killed(files, rng)
        elif maps:
            other, mapping = rng.choice(maps)
            if CONFIG["forks_seen"] or is_open(other):
                touch(other, mapping, rng)
    for f in own:
        if rng.random() < 0.5:
            files.remove(f)
            os.close(f.fd)


def main():
    os.makedirs(under("copies"), exist_ok=True)
    # Held by every process of the program: its end is the end of them all.
    done, alive = os.pipe()
    rng = random.Random(SEED)
    program(2, rng, [], [])
    for step in (written_meanwhile, gone, gone, same_file):
        step(rng)
    if CONFIG["pass"]:
        passed(rng)
        passed(rng)
    os.close(alive)
    while os.read(done, 1):
        pass


main()
