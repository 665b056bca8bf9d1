//! What strace saw: which process read how many bytes of which file. It knows nothing of regentfs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A call that returned bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The process, not the thread.
    pub pid: u32,
    /// The system call; preadv2 counts as preadv.
    pub name: String,
    pub path: PathBuf,
    /// Where the call itself says it.
    pub offset: Option<u64>,
    pub len: u64,
}

const READS: &[&str] = &["read", "pread64", "readv", "preadv", "preadv2", "sendfile", "splice", "copy_file_range"];
const FORKS: &[&str] = &["clone", "clone3", "fork", "vfork"];

/// A command line that runs what is added to it under strace.
pub fn strace(output: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-s", "0", "--seccomp-bpf", "-e", "signal=none", "-o"]).arg(output);
    command.arg("-e").arg(format!("trace={}", [READS, FORKS].concat().join(",")));
    command
}

/// All calls that returned at least one byte of a file below `root`.
pub fn parse(text: &str, root: &Path) -> Vec<Call> {
    let mut unfinished: BTreeMap<u32, String> = BTreeMap::new();
    let mut lines = Vec::new();
    for line in text.lines() {
        let Some((tid, rest)) = line.split_once(' ') else { continue };
        let (tid, rest) = (tid.parse::<u32>().unwrap_or_else(|_| panic!("strace: {line}")), rest.trim_start());
        if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            unfinished.insert(tid, begun.to_owned());
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let (_, end) = resumed.split_once(" resumed>").unwrap_or_else(|| panic!("strace: {line}"));
            let begun = unfinished.remove(&tid).unwrap_or_default();
            lines.push((tid, begun + end));
        } else {
            lines.push((tid, rest.to_owned()));
        }
    }
    // Threads first: a thread's own calls may be printed before the clone that made it has returned.
    let mut leaders: BTreeMap<u32, u32> = BTreeMap::new();
    for (tid, line) in &lines {
        if FORKS.iter().any(|name| line.starts_with(&format!("{name}(")))
            && line.contains("CLONE_THREAD")
            && let Some(child) = result(line).and_then(|r| u32::try_from(r).ok())
        {
            let leader = *leaders.get(tid).unwrap_or(tid);
            leaders.insert(child, leader);
        }
    }
    lines.iter().filter_map(|(tid, line)| call(*leaders.get(tid).unwrap_or(tid), line, root)).collect()
}

/// The number that a call returned.
fn result(line: &str) -> Option<i64> {
    let (_, result) = line.rsplit_once(" = ")?;
    result.split([' ', '<']).next()?.parse().ok()
}

fn call(pid: u32, line: &str, root: &Path) -> Option<Call> {
    let (name, rest) = line.split_once('(')?;
    if !READS.contains(&name) {
        return None;
    }
    let len = u64::try_from(result(line)?).ok().filter(|&len| len > 0)?;
    let arguments = arguments(rest);
    let (source, offset) = match name {
        "read" | "readv" => (0, None),
        "pread64" => (0, Some(3)),
        "preadv" | "preadv2" => (0, Some(3)),
        "sendfile" => (1, Some(2)),
        _ => (0, Some(1)),
    };
    let fd = arguments.get(source)?;
    let path = fd.split_once('<')?.1;
    let path = path.strip_suffix("(deleted)").unwrap_or(path).strip_suffix('>')?;
    Path::new(path).strip_prefix(root).ok()?;
    // sendfile and friends show the offset before and after: [100 => 200].
    let digits = |text: &str| text.trim_start_matches('[').split([' ', ']']).next().and_then(|n| n.parse().ok());
    let offset = offset.and_then(|at| arguments.get(at)).and_then(|text| digits(text));
    let name = if name == "preadv2" { "preadv" } else { name };
    Some(Call { pid, name: name.to_owned(), path: path.into(), offset, len })
}

/// The arguments of a call, split at the commas of the outermost level.
fn arguments(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut quoted, mut in_path) = (0, 0, false, false);
    let mut list = Vec::new();
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'<' => in_path = true,
            // A socket's name has an arrow in it.
            b'>' if !text[..at].ends_with('-') => in_path = false,
            _ if in_path => {}
            b'[' | b'{' | b'(' => depth += 1,
            b')' if depth == 0 => {
                list.push(text[start..at].trim());
                return list;
            }
            b']' | b'}' | b')' => depth -= 1,
            b',' if depth == 0 => {
                list.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    list
}

#[test]
fn reads_what_strace_writes() {
    let text = "\
10 read(3</m/a>, \"\"..., 100) = 7
10 read(3</elsewhere/a>, \"\"..., 100) = 7
10 read(3</m/a>, \"\", 100)   = 0
10 read(3</m/a>, 0x1, 100)    = -1 EFAULT (Bad address)
10 clone3({flags=CLONE_VM|CLONE_THREAD, exit_signal=0} => {parent_tid=[11]}, 88) = 11
11 pread64(3</m/b>(deleted),  <unfinished ...>
12 preadv2(3</m/a>, [{iov_base=\"\"..., iov_len=34}, {iov_base=\"\"..., iov_len=9}], 2, 77, 0) = 43
11 <... pread64 resumed>\"\"..., 10, 300) = 9
10 sendfile(4<UNIX-STREAM:[1->2]>, 3</m/a>, [5] => [8], 100) = 3
10 splice(3</m/a>, [9] => [12], 5<pipe:[1]>, NULL, 3, 0) = 3
10 copy_file_range(3</m/a>, NULL, 4</m/c>, NULL, 5, 0) = 5
10 +++ exited with 0 +++
";
    let calls = parse(text, Path::new("/m"));
    let seen: Vec<_> = calls.iter().map(|c| (c.pid, &*c.name, c.path.to_str().unwrap(), c.offset, c.len)).collect();
    assert_eq!(
        seen,
        [
            (10, "read", "/m/a", None, 7),
            (12, "preadv", "/m/a", Some(77), 43),
            (10, "pread64", "/m/b", Some(300), 9),
            (10, "sendfile", "/m/a", Some(5), 3),
            (10, "splice", "/m/a", Some(9), 3),
            (10, "copy_file_range", "/m/a", None, 5),
        ]
    );
}
