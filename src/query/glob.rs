//! Which paths `--path` means.

use std::os::unix::ffi::OsStrExt;

use globset::{GlobBuilder, GlobMatcher};

use super::{QueryError, Result};
use crate::types::Path;

/// A glob over repository-relative paths: `*` and `?` stay within a component, `**` crosses them.
///
/// As in .gitignore a glob without a slash matches a name at any depth, and what matches a directory matches all below it.
pub struct PathGlob {
    glob: GlobMatcher,
    anywhere: bool,
    everything: bool,
}

impl PathGlob {
    /// # Errors
    /// When the glob cannot be understood.
    pub fn new(pattern: &str) -> Result<PathGlob> {
        let rooted = pattern.strip_prefix("./").unwrap_or(pattern);
        let anchored = rooted.starts_with('/');
        let trimmed = rooted.trim_matches('/');
        let glob = GlobBuilder::new(trimmed)
            .literal_separator(true)
            .backslash_escape(true)
            .build()
            .map_err(|e| QueryError::Filter(format!("bad glob {pattern:?}: {}", e.kind())))?;
        Ok(PathGlob {
            glob: glob.compile_matcher(),
            anywhere: !anchored && !trimmed.contains('/'),
            everything: trimmed.is_empty() || trimmed == ".",
        })
    }

    pub fn matches(&self, path: &Path) -> bool {
        if self.everything {
            return true;
        }
        let bytes = path.as_bytes();
        let ends = bytes.iter().enumerate().filter(|&(_, &b)| b == b'/').map(|(at, _)| at).chain([bytes.len()]);
        let mut start = 0;
        for end in ends {
            let (whole, name) = (bytes.get(..end).unwrap_or_default(), bytes.get(start..end).unwrap_or_default());
            if self.is_match(whole) || (self.anywhere && self.is_match(name)) {
                return true;
            }
            start = end + 1;
        }
        false
    }

    fn is_match(&self, bytes: &[u8]) -> bool {
        self.glob.is_match(std::ffi::OsStr::from_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_like_gitignore() {
        for (pattern, path, expected) in [
            ("*.rs", "main.rs", true),
            ("*.rs", "src/main.rs", true),
            ("/*.rs", "src/main.rs", false),
            ("src/*.rs", "src/main.rs", true),
            ("src/*.rs", "src/a/main.rs", false),
            ("src/**/*.rs", "src/a/b/main.rs", true),
            ("src", "src/a/b", true),
            ("src/", "src/a/b", true),
            ("src", "lib/src/x", true),
            ("./src/a", "src/a/b", true),
            ("src/a", "lib/src/a", false),
            ("src", "srcs", false),
            ("{a,b}", "x/b/c", true),
            ("", "anything", true),
            (".", "anything", true),
        ] {
            assert_eq!(
                PathGlob::new(pattern).unwrap().matches(&Path::new(path.as_bytes())),
                expected,
                "{pattern} {path}"
            );
        }
        assert!(PathGlob::new("*.c").unwrap().matches(&Path::new(b"a/\xff.c")));
        assert!(PathGlob::new("a[").is_err());
    }
}
