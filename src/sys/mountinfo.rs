//! The lines of /proc/self/mountinfo (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// The table of the process that reads it.
pub const TABLE: &str = "/proc/self/mountinfo";

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub id: u64,
    /// Major and minor number of the file system, as `/sys` writes them.
    pub device: String,
    pub mountpoint: PathBuf,
    /// The kind of its file system, with its subtype: `fuse.sshfs`.
    pub kind: Vec<u8>,
    pub source: PathBuf,
}

/// `None` for what is no such line.
pub fn parse(line: &[u8]) -> Option<Line> {
    let fields: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    let dash = fields.iter().position(|f| *f == b"-")?;
    Some(Line {
        id: std::str::from_utf8(fields.first()?).ok()?.parse().ok()?,
        device: String::from_utf8(fields.get(2)?.to_vec()).ok()?,
        mountpoint: unescape(fields.get(4)?),
        kind: fields.get(dash + 1)?.to_vec(),
        source: unescape(fields.get(dash + 2)?),
    })
}

/// Undoes the octal escapes of proc(5).
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|d| first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match digits {
            Some(d) => {
                bytes.push(d.iter().fold(0u8, |n, b| n.wrapping_mul(8).wrapping_add(b - b'0')));
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}
