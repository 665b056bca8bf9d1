//! Plain data shared by every layer: numbers, names, attributes, events.
//!
//! Nothing here performs I/O, and nothing here knows FUSE or RocksDB. Names and paths are bytes, never `String`.

pub mod attr;
pub mod errno;
pub mod event;
pub mod id;
pub mod name;
pub mod range;
pub mod rfc3339;
pub mod time;

pub use attr::{Attr, Kind};
pub use errno::Errno;
pub use event::{Event, Known, Note, Op};
pub use id::{ActorId, At, Epoch, HandleId, Ino, Seq, Timeline, VersionId};
pub use name::{Name, Path};
pub use range::{Range, RangeSet};
pub use time::Time;

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

/// The bytes of a hexadecimal string; `None` if it is none.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
