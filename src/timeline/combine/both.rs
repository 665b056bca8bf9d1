//! One path that both sides changed: the two changes together, or why that cannot be.
//!
//! Bytes are merged line by line, mode, owner and attributes each for itself. Knows nothing of other paths.

use super::{ConflictKind, Favor};
use crate::merge::{self, Region};
use crate::overlay::restore::{bytes_differ, differs};
use crate::overlay::view::{Node, View};
use crate::store::codec::Xattrs;
use crate::types::{Errno, Kind, Time};

/// Larger files are not merged line by line, bytes.
pub const LARGEST: u64 = 4 << 20;

/// The access ACL, whose group part is in the mode as well.
const ACL: &[u8] = b"system.posix_acl_access";

/// What came of it.
pub enum Outcome {
    /// Ours stays.
    Ours,
    /// A file with the bytes of one side, and with what both did to mode, owner and attributes.
    Mixed(Node),
    /// The same, but its bytes are merged: see [`texts`].
    Text(Node),
    Clash(ConflictKind, Vec<Region>),
}

/// A path in three states.
#[derive(Clone, Copy)]
pub struct Three<'n> {
    pub from: Option<&'n Node>,
    pub ours: Option<&'n Node>,
    pub theirs: Option<&'n Node>,
}

/// What becomes of a path that both sides changed. `now` is the time of what is merged.
///
/// # Errors
/// When bytes or attributes cannot be read.
pub fn both(view: &View<'_>, three: Three<'_>, favor: Favor, now: Time) -> Result<Outcome, Errno> {
    let clash = |kind| Ok(Outcome::Clash(kind, Vec::new()));
    let (ours, theirs) = match (three.ours, three.theirs) {
        (None, None) => return Ok(Outcome::Ours),
        (Some(_), None) | (None, Some(_)) => return clash(ConflictKind::DeleteChange),
        (Some(ours), Some(theirs)) => (ours, theirs),
    };
    if !differs(view, Some(ours), Some(theirs))? {
        return Ok(Outcome::Ours);
    }
    if ours.kind != theirs.kind {
        return clash(ConflictKind::Type);
    }
    let Some(from) = three.from.filter(|from| from.kind == ours.kind) else { return clash(ConflictKind::AddAdd) };
    if ours.attr.rdev != theirs.attr.rdev {
        return clash(ConflictKind::Type);
    }
    let mut text = false;
    let base = if !bytes_differ(view, from, theirs)? || !bytes_differ(view, ours, theirs)? {
        ours
    } else if !bytes_differ(view, from, ours)? {
        theirs
    } else if ours.kind == Kind::File {
        match texts(view, from, ours, theirs, favor)? {
            None => return clash(ConflictKind::Binary),
            Some(merge::Merged::Conflicts { regions, .. }) => {
                return Ok(Outcome::Clash(ConflictKind::Content, regions));
            }
            // One has what the other did already.
            Some(merge::Merged::Clean(bytes)) if bytes == load(view, ours)? => ours,
            Some(merge::Merged::Clean(bytes)) if bytes == load(view, theirs)? => theirs,
            Some(merge::Merged::Clean(_)) => {
                text = true;
                ours
            }
        }
    } else {
        return clash(ConflictKind::Binary);
    };
    match attributes(view, (from, ours, theirs), base, now)? {
        None => clash(ConflictKind::Attributes),
        Some(node) if text => Ok(Outcome::Text(node)),
        Some(node) if !differs(view, Some(ours), Some(&node))? => Ok(Outcome::Ours),
        Some(node) => Ok(Outcome::Mixed(node)),
    }
}

/// The merged bytes; `None` when they are no text, or too much of it.
///
/// # Errors
/// When they cannot be read.
pub fn texts(
    view: &View<'_>,
    from: &Node,
    ours: &Node,
    theirs: &Node,
    favor: Favor,
) -> Result<Option<merge::Merged>, Errno> {
    let all = [from, ours, theirs];
    if all.iter().any(|node| node.kind != Kind::File || node.size > LARGEST) {
        return Ok(None);
    }
    let [from, ours, theirs] = [load(view, from)?, load(view, ours)?, load(view, theirs)?];
    if ![&from, &ours, &theirs].iter().all(|bytes| merge::is_text(bytes)) {
        return Ok(None);
    }
    Ok(Some(merge::merge(&from, &ours, &theirs, ("ours", "theirs"), favor)))
}

fn load(view: &View<'_>, node: &Node) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; usize::try_from(node.size).map_err(|_| Errno::EFBIG)?];
    let len = view.open(node)?.read_at(0, &mut bytes)?;
    bytes.truncate(len);
    Ok(bytes)
}

/// What both sides made of something: changed by one, it is that; changed by both, it must be the same.
fn merged<T: PartialEq + Clone>(from: &T, ours: &T, theirs: &T) -> Option<T> {
    if ours == theirs || from == theirs {
        Some(ours.clone())
    } else if from == ours {
        Some(theirs.clone())
    } else {
        None
    }
}

/// `base` with the mode, the owner and the attributes of both; `None` when they exclude each other.
fn attributes(
    view: &View<'_>,
    (from, ours, theirs): (&Node, &Node, &Node),
    base: &Node,
    now: Time,
) -> Result<Option<Node>, Errno> {
    let lists = (view.xattrs(from)?, view.xattrs(ours)?, view.xattrs(theirs)?);
    let has_acl = [&lists.0, &lists.1, &lists.2].iter().any(|list| get(list, ACL).is_some());
    let perm = if has_acl {
        merged(&from.perm, &ours.perm, &theirs.perm)
    } else {
        // Each bit for itself: what one side changed.
        let (changed_ours, changed_theirs) = (from.perm ^ ours.perm, from.perm ^ theirs.perm);
        Some(from.perm ^ (changed_ours | changed_theirs))
    };
    let owner = merged(&from.attr.uid, &ours.attr.uid, &theirs.attr.uid).zip(merged(
        &from.attr.gid,
        &ours.attr.gid,
        &theirs.attr.gid,
    ));
    let (Some(perm), Some((uid, gid)), Some(xattrs)) = (perm, owner, merged_lists(&lists.0, &lists.1, &lists.2)) else {
        return Ok(None);
    };
    let mut record = view.full(base)?;
    (record.attr.perm, record.attr.uid, record.attr.gid, record.attr.ctime) = (perm, uid, gid, now);
    if view.xattrs(base)? != xattrs {
        record.xattrs = Some(xattrs);
    }
    Ok(Some(View::log_node(base.ino, record)))
}

fn get<'l>(list: &'l Xattrs, name: &[u8]) -> Option<&'l [u8]> {
    list.iter().find(|(n, _)| **n == *name).map(|(_, value)| &**value)
}

fn merged_lists(from: &Xattrs, ours: &Xattrs, theirs: &Xattrs) -> Option<Xattrs> {
    let mut names: Vec<&[u8]> = [from, ours, theirs].into_iter().flatten().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    names.dedup();
    let mut list = Xattrs::new();
    for name in names {
        if let Some(value) = merged(&get(from, name), &get(ours, name), &get(theirs, name))? {
            list.push((name.into(), value.into()));
        }
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sides_change_counts() {
        assert_eq!(merged(&1, &1, &2), Some(2));
        assert_eq!(merged(&1, &2, &1), Some(2));
        assert_eq!(merged(&1, &2, &2), Some(2));
        assert_eq!(merged(&1, &2, &3), None);
        let list = |list: &[(&str, &str)]| -> Xattrs {
            list.iter().map(|(n, v)| (n.as_bytes().into(), v.as_bytes().into())).collect()
        };
        let from = list(&[("a", "1"), ("b", "1"), ("c", "1")]);
        let ours = list(&[("a", "2"), ("c", "1"), ("d", "1")]);
        let theirs = list(&[("a", "1"), ("b", "1"), ("e", "1")]);
        assert_eq!(merged_lists(&from, &ours, &theirs), Some(list(&[("a", "2"), ("d", "1"), ("e", "1")])));
        assert_eq!(merged_lists(&from, &ours, &list(&[("a", "3")])), None);
        assert_eq!(merged_lists(&from, &list(&[]), &list(&[("b", "2")])), None, "taken away, and changed");
    }
}
