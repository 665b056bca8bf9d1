//! Taking an apply back: from what it destroyed to the steps that bring that into the base again.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::keep::{self, Kept, Ours};
use super::plan::{DEEPEST, Planned, Wanted, same};
use super::settle::seen;
use super::{Result, os};
use crate::apply::{Expect, Make, Seen, Step};
use crate::overlay::Overlay;
use crate::overlay::places::base_links;
use crate::overlay::view::View;
use crate::types::{Errno, Kind, Path, VersionId};

/// What a file stands for that taking applies back, and doing them again, left there.
fn original(ours: &Ours, is: &Seen) -> Seen {
    let mut at = *is;
    for _ in 0..DEEPEST {
        let made = ours.made(&at).iter().rfind(|made| same(&made.seen, &at));
        let Some(instead) = made.and_then(|made| made.instead) else { break };
        at = instead;
    }
    at
}

/// The plan that takes an apply back: everything as it was kept, where what was made is still there.
///
/// # Errors
/// When the log cannot be read.
pub fn reverse(overlay: &Overlay, kept: u64, id: u64) -> Result<Planned> {
    let mut planned = Planned::new(id);
    let mut links: FxHashMap<(u64, u64), Path> = FxHashMap::default();
    let all = keep::all(overlay.store(), kept)?;
    let names = names_left(overlay, &all).map_err(os("cannot look for other names in the repository"))?;
    let (base, mut ours) = (View::base(overlay), None);
    for one in all {
        let Kept { path, made, old, .. } = one;
        let is = base.find(&path).map_err(os("cannot look at the repository"))?.map(|node| seen(&node));
        let expect = match (made, is) {
            // It may stand for the same: a later apply took it, and taking that back brought it back.
            (Some(made), Some(is)) if !same(&made, &is) => {
                let ours = match &mut ours {
                    Some(ours) => ours,
                    none => none.insert(Ours::load(overlay.store())?),
                };
                Expect::Is(if same(&original(ours, &made), &original(ours, &is)) { is } else { made })
            }
            (made, _) => made.map_or(Expect::Nothing, Expect::Is),
        };
        let make = match old {
            None => Make::Remove,
            Some(old) => match old.seen.kind {
                Kind::Dir => Make::Dir { meta: old.meta },
                Kind::Symlink => Make::Symlink { target: old.target.unwrap_or_default(), meta: old.meta },
                // Its bytes were not touched.
                Kind::File if old.version == VersionId::BASE => Make::Meta { meta: old.meta },
                // Several names that one file had.
                Kind::File if links.contains_key(&(old.seen.dev, old.seen.ino)) => {
                    Make::Link { to: links.get(&(old.seen.dev, old.seen.ino)).cloned().unwrap_or_default() }
                }
                Kind::File => match names.get(&(old.seen.dev, old.seen.ino)) {
                    // It has another name there, which stayed.
                    Some((to, seen)) => {
                        if !planned.plan.steps.iter().any(|s| s.path == *to) {
                            let keep = Step { path: to.clone(), expect: Expect::Is(*seen), make: Make::Keep };
                            planned.plan.steps.push(keep);
                        }
                        Make::Link { to: to.clone() }
                    }
                    None => {
                        links.insert((old.seen.dev, old.seen.ino), path.clone());
                        let wanted = Wanted::Version(old.version, old.seen.size);
                        Make::File { content: planned.contents.add(wanted), meta: old.meta }
                    }
                },
                kind @ (Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice) => {
                    Make::Special { kind, rdev: old.rdev, meta: old.meta }
                }
            },
        };
        if !(make == Make::Remove && expect == Expect::Nothing) {
            planned.plan.steps.push(Step { path, expect, make });
        }
    }
    Ok(planned)
}

/// By device and inode number.
type Left = FxHashMap<(u64, u64), (Path, Seen)>;

/// Names that files still have in the base, unchanged, of which an apply took others away.
fn names_left(overlay: &Overlay, all: &[Kept]) -> Result<Left, Errno> {
    let mut found = FxHashMap::default();
    let lost: FxHashMap<u64, &Seen> = all
        .iter()
        .filter_map(|one| one.old.as_ref())
        .filter(|old| old.seen.kind == Kind::File && old.version != VersionId::BASE)
        .map(|old| (old.seen.ino, &old.seen))
        .collect();
    if lost.is_empty() {
        return Ok(found);
    }
    let base = View::base(overlay);
    let steps: BTreeSet<&Path> = all.iter().map(|one| &one.path).collect();
    for (ino, paths) in base_links(&**overlay.base(), &|ino| lost.contains_key(&ino), &|_| false)? {
        let Some(was) = lost.get(&ino) else { continue };
        for path in paths.into_iter().filter(|p| !steps.contains(p)) {
            if let Some(is) = base.find(&path)?.map(|node| seen(&node))
                && was.same_file(&is)
                && (was.size, was.mtime) == (is.size, is.mtime)
            {
                found.insert((was.dev, was.ino), (path, is));
                break;
            }
        }
    }
    Ok(found)
}
