//! The bytes of both sides: comparing them, hashing them, loading them.

use sha1::{Digest, Sha1};

use crate::overlay::view::{Node, Reader, View};
use crate::types::{Errno, Kind, Range};

/// Larger files are compared, but shown as binary.
pub const LARGE: u64 = 50 << 20;

const BLOCK: usize = 128 << 10;

/// Whether two files of the same kind have the same bytes. Reads only where they can differ.
pub fn same(view: &View<'_>, old: &Node, new: &Node) -> Result<bool, Errno> {
    if old.kind == Kind::Symlink {
        return Ok(view.target(old)? == view.target(new)?);
    }
    if old.size != new.size {
        return Ok(false);
    }
    let suspect = match view.suspect(new, old)? {
        Some(ranges) => ranges,
        None => vec![Range::new(0, Range::TO_END)],
    };
    if suspect.iter().all(|r| r.offset >= old.size) {
        return Ok(true);
    }
    let (left, right) = (view.open(old)?, view.open(new)?);
    for range in suspect {
        if !same_range(&left, &right, range.offset, range.end().min(old.size))? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn same_range(left: &Reader<'_>, right: &Reader<'_>, from: u64, to: u64) -> Result<bool, Errno> {
    let (mut a, mut b) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut at = from;
    while at < to {
        let want = usize::try_from(to - at).unwrap_or(BLOCK).min(BLOCK);
        let got = left.read_at(at, a.get_mut(..want).unwrap_or_default())?;
        let other = right.read_at(at, b.get_mut(..want).unwrap_or_default())?;
        if got != other || a.get(..got) != b.get(..got) {
            return Ok(false);
        }
        if got == 0 {
            break;
        }
        at += got as u64;
    }
    Ok(true)
}

/// How much of a changed file is not even suspected of being changed, in percent; `None` when nothing is known.
pub fn untouched(view: &View<'_>, old: &Node, new: &Node) -> Option<u8> {
    let suspect = view.suspect(new, old).ok()??;
    let larger = old.size.max(new.size);
    let kept = old.size.min(new.size);
    let lost: u64 = suspect.iter().map(|r| r.end().min(kept).saturating_sub(r.offset)).sum();
    let percent = u128::from(kept.saturating_sub(lost)) * 100 / u128::from(larger.max(1));
    u8::try_from(percent).ok()
}

/// All bytes of a file, or a link's target.
pub fn load(view: &View<'_>, node: &Node) -> Result<Vec<u8>, Errno> {
    if node.kind == Kind::Symlink {
        return view.target(node);
    }
    let reader = view.open(node)?;
    let mut bytes = vec![0; usize::try_from(node.size).map_err(|_| Errno::EFBIG)?];
    let got = reader.read_at(0, &mut bytes)?;
    bytes.truncate(got);
    Ok(bytes)
}

/// A hash for telling files apart.
pub fn hash(view: &View<'_>, node: &Node) -> Result<[u8; 32], Errno> {
    if node.kind == Kind::Symlink {
        return Ok(*blake3::hash(&view.target(node)?).as_bytes());
    }
    let reader = view.open(node)?;
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; BLOCK];
    let mut at = 0;
    loop {
        let got = reader.read_at(at, &mut block)?;
        if got == 0 {
            return Ok(*hasher.finalize().as_bytes());
        }
        hasher.update(block.get(..got).unwrap_or_default());
        at += got as u64;
    }
}

/// The name that git gives to these bytes, shortened as in a patch.
pub fn blob_id(bytes: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    crate::types::hex(&hasher.finalize())[..7].to_owned()
}

/// git's guess.
pub fn is_binary(bytes: &[u8]) -> bool {
    !crate::merge::is_text(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_blobs_as_git_does() {
        assert_eq!(blob_id(b""), "e69de29");
        assert_eq!(blob_id(b"hello\n"), "ce01362");
    }
}
