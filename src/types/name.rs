//! File names and repository-relative paths, as bytes.

use std::fmt;

/// One path component: 1 to 255 bytes, without `/` and NUL.
pub type Name = Box<[u8]>;

/// A path relative to the repository root, without a leading slash; the root itself is empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Path(pub std::sync::Arc<[u8]>);

impl Path {
    /// The repository root.
    pub fn root() -> Path {
        Path(std::sync::Arc::from(&b""[..]))
    }

    pub fn new(bytes: &[u8]) -> Path {
        Path(std::sync::Arc::from(bytes))
    }

    pub fn join(&self, name: &[u8]) -> Path {
        if self.0.is_empty() {
            return Path::new(name);
        }
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        bytes.push(b'/');
        bytes.extend_from_slice(name);
        Path(bytes.into())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The directory part and the last component; `None` for the root.
    pub fn split_last(&self) -> Option<(Path, &[u8])> {
        if self.0.is_empty() {
            return None;
        }
        match self.0.iter().rposition(|&b| b == b'/') {
            Some(at) => Some((Path::new(&self.0[..at]), &self.0[at + 1..])),
            None => Some((Path::root(), &self.0)),
        }
    }

    /// Whether this is `dir` or something below it.
    pub fn is_below(&self, dir: &Path) -> bool {
        dir.0.is_empty() || self.0.strip_prefix(&*dir.0).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }

    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|c| !c.is_empty())
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Display for Path {
    /// Lossy, for people; machines get the bytes (docs/JSON.md).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_and_splits() {
        let path = Path::root().join(b"src").join(b"a\xff");
        assert_eq!(path.as_bytes(), b"src/a\xff");
        let (dir, name) = path.split_last().unwrap();
        assert_eq!((dir.as_bytes(), name), (&b"src"[..], &b"a\xff"[..]));
        assert!(Path::root().split_last().is_none());
        assert_eq!(Path::new(b"a/b/c").components().collect::<Vec<_>>(), [b"a", b"b", b"c"]);
    }
}
