//! Reading the tree as it was: which state of an inode or a name counts at a point of a timeline.
//!
//! A state is stored under its epoch and counts until the next one of the same timeline. What a timeline does not mention is as its parent
//! had it where it forked off. An empty value means that from there on there is none.

use std::ops::ControlFlow;

use rustc_hash::FxHashSet;
use smallvec::SmallVec;

use super::codec::{self, Dentry, InodeRecord};
use super::{Kv, Result, Table, history, keys};
use crate::types::{At, Epoch, Ino, Name, Path, Timeline};

/// A timeline and the ones it forked from, nearest first; of each, the epochs up to (and with) one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    segments: SmallVec<[At; 2]>,
}

/// A change in an epoch, as the index of changes has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    Inode {
        ino: Ino,
        /// Its path when it changed; of a file with several names, one of them.
        path: Path,
    },
    Name {
        dir: Ino,
        name: Name,
        /// The path of the name.
        path: Path,
    },
}

impl Lineage {
    /// The way from a point back to the beginning.
    ///
    /// # Errors
    /// When a timeline on the way is not in the store.
    pub fn of(kv: &dyn Kv, at: At) -> Result<Lineage> {
        let mut segments = SmallVec::new();
        let mut next = Some(at);
        while let Some(at) = next {
            segments.push(at);
            // A fork is always from an older timeline: this ends, whatever the disk holds.
            next = history::timeline(kv, at.timeline)?.parent.filter(|p| p.timeline < at.timeline);
        }
        Ok(Lineage { segments })
    }

    /// No history at all: the base as it is on disk.
    pub fn base() -> Lineage {
        Lineage { segments: SmallVec::new() }
    }

    pub fn is_base(&self) -> bool {
        self.segments.is_empty()
    }

    /// The point itself.
    pub fn at(&self) -> At {
        self.segments.first().copied().unwrap_or(At::BASE)
    }

    /// The newest point that both have on their way. All timelines descend from the first one, so there always is one.
    pub fn common(a: &Lineage, b: &Lineage) -> At {
        for one in &a.segments {
            if let Some(other) = b.segments.iter().find(|other| other.timeline == one.timeline) {
                return At { timeline: one.timeline, epoch: one.epoch.min(other.epoch) };
            }
        }
        At { timeline: Timeline::MAIN, epoch: Epoch::BASE }
    }

    /// The timelines on the way, nearest first, and up to which epoch each of them counts.
    pub fn segments(&self) -> &[At] {
        &self.segments
    }

    /// Whether anything can be older than `epoch`, the current one: a snapshot was taken, or the timeline was forked.
    pub fn has_past(&self, epoch: Epoch) -> bool {
        self.segments.len() > 1 || epoch.0 > 1
    }

    fn newest(&self, kv: &dyn Kv, range: &dyn Fn(At) -> (keys::Key, keys::Key)) -> Result<Option<(Epoch, Vec<u8>)>> {
        for &segment in &self.segments {
            let (from, to) = range(segment);
            let mut found = None;
            kv.scan(Table::Tree, &from, &to, &mut |key, value| {
                let epoch = keys::last_number(key).map_or(Epoch::BASE, |n| Epoch(!n));
                found = Some((epoch, value.to_vec()));
                ControlFlow::Break(())
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The state of an inode: its record, or `None` where it has none.
    pub fn inode(&self, kv: &dyn Kv, ino: Ino) -> Result<Option<InodeRecord>> {
        match self.newest(kv, &|at| keys::inode_states(at.timeline, ino, at.epoch))? {
            Some((_, value)) if !value.is_empty() => codec::get_inode(ino, &value).map(Some),
            Some(_) | None => Ok(None),
        }
    }

    /// Where an inode came from in the base, from the newest state that tells.
    pub fn origin(&self, kv: &dyn Kv, ino: Ino) -> Result<Option<codec::Origin>> {
        let mut found = Ok(None);
        for &At { timeline, epoch } in &self.segments {
            let (from, to) = keys::inode_states(timeline, ino, epoch);
            kv.scan(Table::Tree, &from, &to, &mut |_, value| {
                if value.is_empty() {
                    return ControlFlow::Continue(());
                }
                found = codec::get_inode(ino, value).map(|record| record.origin);
                ControlFlow::Break(())
            })?;
            if !matches!(found, Ok(None)) {
                break;
            }
        }
        found
    }

    /// The states of many inodes, which are in order: what [`Lineage::inode`] says of each.
    pub fn inodes(&self, kv: &dyn Kv, inos: &[Ino], each: &mut dyn FnMut(Ino, Option<InodeRecord>)) -> Result<()> {
        let mut left = inos.to_vec();
        let mut bad = None;
        for &At { timeline, epoch } in &self.segments {
            let ranges: Vec<_> = left.iter().map(|&ino| keys::inode_states(timeline, ino, epoch)).collect();
            let mut found = vec![false; left.len()];
            kv.firsts(Table::Tree, &ranges, &mut |number, _, value| {
                let (Some(&ino), Some(found)) = (left.get(number), found.get_mut(number)) else { return };
                *found = true;
                match (value.is_empty(), codec::get_inode(ino, value)) {
                    (true, _) => each(ino, None),
                    (false, Ok(record)) => each(ino, Some(record)),
                    (false, Err(error)) => bad = Some(error),
                }
            })?;
            let mut found = found.into_iter();
            left.retain(|_| found.next() == Some(false));
        }
        for ino in left {
            each(ino, None);
        }
        bad.map_or(Ok(()), Err)
    }

    /// Whether the inode has a state in an epoch before `epoch`, a tombstone included.
    pub fn inode_before(&self, kv: &dyn Kv, ino: Ino, epoch: Epoch) -> Result<bool> {
        let before = self.before(epoch);
        Ok(before.newest(kv, &|at| keys::inode_states(at.timeline, ino, at.epoch))?.is_some())
    }

    /// What a name stands for as far as the overlay knows: `None` where the base decides.
    pub fn dentry(&self, kv: &dyn Kv, dir: Ino, name: &[u8]) -> Result<Option<Dentry>> {
        match self.newest(kv, &|at| keys::dentry_states(at.timeline, dir, name, at.epoch))? {
            Some((_, value)) if !value.is_empty() => codec::get_dentry(&value).map(Some),
            Some(_) | None => Ok(None),
        }
    }

    /// Whether the name has a state in an epoch before `epoch`, a tombstone included.
    pub fn dentry_before(&self, kv: &dyn Kv, dir: Ino, name: &[u8], epoch: Epoch) -> Result<bool> {
        let before = self.before(epoch);
        Ok(before.newest(kv, &|at| keys::dentry_states(at.timeline, dir, name, at.epoch))?.is_some())
    }

    /// The same up to just before `epoch` of the first timeline.
    fn before(&self, epoch: Epoch) -> Lineage {
        let mut segments = self.segments.clone();
        match epoch.0.checked_sub(1) {
            Some(before) => {
                if let Some(first) = segments.first_mut() {
                    first.epoch = first.epoch.min(Epoch(before));
                }
            }
            None => segments.clear(),
        }
        Lineage { segments }
    }

    /// All names of a directory that the overlay knows something about.
    pub fn dentries(&self, kv: &dyn Kv, dir: Ino, each: &mut dyn FnMut(&[u8], Dentry)) -> Result<()> {
        let mut seen: FxHashSet<Name> = FxHashSet::default();
        let mut bad = None;
        for &At { timeline, epoch: upto } in &self.segments {
            let (from, to) = keys::dentries(timeline, dir);
            kv.scan(Table::Tree, &from, &to, &mut |key, value| {
                let Some((_, name, epoch)) = keys::parse_dentry(key) else { return ControlFlow::Continue(()) };
                // Newest epoch first: what comes later of the same name is older.
                if epoch > upto || seen.contains(name) {
                    return ControlFlow::Continue(());
                }
                seen.insert(name.into());
                if value.is_empty() {
                    return ControlFlow::Continue(());
                }
                match codec::get_dentry(value) {
                    Ok(dentry) => each(name, dentry),
                    Err(error) => {
                        bad = Some(error);
                        return ControlFlow::Break(());
                    }
                }
                ControlFlow::Continue(())
            })?;
            if let Some(error) = bad {
                return Err(error);
            }
        }
        Ok(())
    }

    /// The numbers of all inodes that have or had a record, in no order, some more than once.
    pub fn numbers(&self, kv: &dyn Kv, each: &mut dyn FnMut(Ino)) -> Result<()> {
        for &At { timeline, epoch: upto } in &self.segments {
            let (from, to) = keys::all_inodes(timeline);
            kv.scan(Table::Tree, &from, &to, &mut |key, _| {
                if let Some((ino, _)) = keys::parse_inode(key).filter(|&(_, epoch)| epoch <= upto) {
                    each(ino);
                }
                ControlFlow::Continue(())
            })?;
        }
        Ok(())
    }

    /// What changed between two points: everything whose state differs is among it, in no order, some of it more than once.
    pub fn touched(kv: &dyn Kv, from: &Lineage, to: &Lineage, each: &mut dyn FnMut(Touched)) -> Result<()> {
        for (timeline, first, upto) in ranges(from, to) {
            let (start, end) = keys::touched_inodes(timeline, first, upto);
            kv.scan(Table::Tree, &start, &end, &mut |key, value| {
                if let Some(ino) = keys::last_number(key) {
                    each(Touched::Inode { ino: Ino(ino), path: Path::new(value) });
                }
                ControlFlow::Continue(())
            })?;
            let (start, end) = keys::touched_names(timeline, first, upto);
            kv.scan(Table::Tree, &start, &end, &mut |key, value| {
                if let Some((dir, name)) = keys::parse_touched_name(key) {
                    each(Touched::Name { dir, name: name.into(), path: Path::new(value) });
                }
                ControlFlow::Continue(())
            })?;
        }
        Ok(())
    }

    /// Whether anything was changed after `epoch` of the first timeline.
    pub fn changed_since(&self, kv: &dyn Kv, epoch: Epoch) -> Result<bool> {
        let At { timeline, epoch: upto } = self.at();
        let mut any = false;
        let next = epoch.next();
        for (from, to) in [keys::touched_inodes(timeline, next, upto), keys::touched_names(timeline, next, upto)] {
            kv.scan(Table::Tree, &from, &to, &mut |_, _| {
                any = true;
                ControlFlow::Break(())
            })?;
        }
        Ok(any)
    }
}

/// The epochs on the way between two points: of a timeline, those from one up to another.
fn ranges(from: &Lineage, to: &Lineage) -> Vec<(Timeline, Epoch, Epoch)> {
    let whole = |at: &At| (at.timeline, Epoch::BASE, at.epoch);
    for (i, a) in from.segments.iter().enumerate() {
        if let Some((j, b)) = to.segments.iter().enumerate().find(|(_, b)| b.timeline == a.timeline) {
            let mut found: Vec<_> = from.segments.iter().take(i).map(whole).collect();
            found.extend(to.segments.iter().take(j).map(whole));
            found.push((a.timeline, a.epoch.min(b.epoch).next(), a.epoch.max(b.epoch)));
            return found;
        }
    }
    from.segments.iter().chain(&to.segments).map(whole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(list: &[(u64, u64)]) -> Lineage {
        Lineage { segments: list.iter().map(|&(t, e)| At { timeline: Timeline(t), epoch: Epoch(e) }).collect() }
    }

    #[test]
    fn where_two_ways_meet() {
        let common = |a: &[(u64, u64)], b: &[(u64, u64)]| {
            let at = Lineage::common(&lineage(a), &lineage(b));
            assert_eq!(at, Lineage::common(&lineage(b), &lineage(a)));
            (at.timeline.0, at.epoch.0)
        };
        assert_eq!(common(&[(1, 3)], &[(1, 7)]), (1, 3));
        assert_eq!(common(&[(2, 9), (1, 4)], &[(1, 7)]), (1, 4));
        assert_eq!(common(&[(2, 9), (1, 4)], &[(3, 8), (1, 2)]), (1, 2));
        assert_eq!(common(&[(3, 9), (2, 5), (1, 4)], &[(2, 6), (1, 4)]), (2, 5));
        assert_eq!(common(&[(3, 9), (2, 5), (1, 4)], &[(4, 12), (2, 3), (1, 4)]), (2, 3));
        assert_eq!(common(&[], &[(1, 4)]), (1, 0));
    }

    #[test]
    fn the_way_between_two_points() {
        let way = |a: &[(u64, u64)], b: &[(u64, u64)]| {
            ranges(&lineage(a), &lineage(b)).into_iter().map(|(t, a, b)| (t.0, a.0, b.0)).collect::<Vec<_>>()
        };
        assert_eq!(way(&[(1, 3)], &[(1, 7)]), [(1, 4, 7)]);
        assert_eq!(way(&[(1, 7)], &[(1, 3)]), [(1, 4, 7)]);
        assert_eq!(way(&[(2, 9), (1, 4)], &[(1, 7)]), [(2, 0, 9), (1, 5, 7)]);
        assert_eq!(way(&[(2, 9), (1, 4)], &[(3, 8), (1, 2)]), [(2, 0, 9), (3, 0, 8), (1, 3, 4)]);
        assert_eq!(way(&[(3, 9), (2, 5), (1, 4)], &[(2, 6), (1, 4)]), [(3, 0, 9), (2, 6, 6)]);
        assert_eq!(
            way(&[], &[(1, 2)]),
            [(1, 0, 2)],
            "from the base on: what was pinned before the first epoch as well"
        );
    }

    #[test]
    fn many_inodes_at_once_are_as_one_by_one() {
        use crate::store::{Batch, Sync, mem::MemKv, rocks::Rocks};
        use crate::types::Attr;
        let dir = tempfile::tempdir().unwrap();
        let rocks = Rocks::open(dir.path()).unwrap();
        for kv in [&MemKv::new() as &dyn Kv, &rocks] {
            let mut batch = Batch::new();
            // Of every third inode many states, of every fifth one in the timeline that this one forked from; some are tombstones.
            for ino in 1..200 {
                let put = |batch: &mut Batch, timeline, epoch, size: u64| {
                    let mut value = Vec::new();
                    if !size.is_multiple_of(7) {
                        let (perm, nlink, uid, gid, rdev, blocks) = (0o644, 1, 0, 0, 0, 0);
                        let (atime, mtime, ctime) = Default::default();
                        let (ino, kind) = (Ino(ino), crate::types::Kind::Fifo);
                        let attr = Attr { ino, kind, perm, nlink, uid, gid, rdev, size, blocks, atime, mtime, ctime };
                        let content = codec::Content::None;
                        let record =
                            InodeRecord { attr, content, opaque: false, origin: None, target: None, xattrs: None };
                        codec::put_inode(&mut value, &record);
                    }
                    batch.put(Table::Tree, &keys::inode(Timeline(timeline), Ino(ino), Epoch(epoch)), &value);
                };
                if ino % 3 == 0 {
                    (10..20).for_each(|epoch| put(&mut batch, 2, epoch, ino + epoch));
                }
                if ino % 5 == 0 {
                    put(&mut batch, 1, 3, ino);
                }
            }
            kv.commit(&batch, Sync::No).unwrap();
            for state in [lineage(&[(2, 14), (1, 5)]), lineage(&[(2, 99), (1, 2)]), lineage(&[(1, 5)]), lineage(&[])] {
                for step in [1, 2, 50] {
                    let inos: Vec<Ino> = (1..250).step_by(step).map(Ino).collect();
                    let mut found = Vec::new();
                    state.inodes(kv, &inos, &mut |ino, record| found.push((ino, record))).unwrap();
                    found.sort_by_key(|(ino, _)| *ino);
                    let one_by_one: Vec<_> = inos.iter().map(|&ino| (ino, state.inode(kv, ino).unwrap())).collect();
                    assert_eq!(found, one_by_one);
                }
            }
        }
    }
}
