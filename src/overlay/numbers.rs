//! The numbers by which base files are known: their own inode numbers, unless one is taken.
//!
//! A file system gives the number of a deleted file to the next new one, while the log may still tell of the first. Then the new file gets a number
//! that nothing ever had, written down by device, inode number and birth, and keeps it: whatever the log forgets of the first file later, what
//! it says of the second must stay that one's.

use std::ops::ControlFlow;

use rustc_hash::FxHashSet;

use super::{Overlay, Result, failed};
use crate::base::BaseStat;
use crate::store::codec::Origin;
use crate::store::{Batch, Counter, Store, StoreError, Sync, Table, keys};
use crate::types::{Errno, Ino, Time};

/// Inode numbers of a device under which some file is known by another number.
pub(super) fn taken(store: &Store, dev: u64) -> Result<FxHashSet<u64>, StoreError> {
    let mut taken = FxHashSet::default();
    let (from, to) = keys::all_foreign(dev);
    store.kv.scan(Table::Meta, &from, &to, &mut |key, _| {
        taken.extend(keys::parse_foreign(key));
        ControlFlow::Continue(())
    })?;
    Ok(taken)
}

impl Overlay {
    /// The number of a base file.
    pub(crate) fn number(&self, stat: &BaseStat) -> Result<Ino> {
        self.number_by(stat.dev, stat.attr.ino, stat.born, true)
    }

    /// The same as far as the log tells, whatever is in memory: no inode's lock is taken.
    pub(crate) fn logged_number(&self, dev: u64, ino: Ino, born: Option<Time>) -> Result<Ino> {
        self.number_by(dev, ino, born, false)
    }

    fn number_by(&self, dev: u64, ino: Ino, born: Option<Time>, memory: bool) -> Result<Ino> {
        let usable = dev == self.root_dev && ino.0 > Ino::ROOT.0 && !ino.is_allocated();
        // The sets' locks are leaves: they must be free again before an inode is looked at.
        let known = usable && self.changed.read().contains(&ino);
        if known {
            match self.is_of(dev, ino, born, memory)? {
                Some(true) => return Ok(ino),
                Some(false) => return self.given(dev, ino, born),
                None => {}
            }
        }
        if !usable {
            return self.given(dev, ino, born);
        }
        let taken = self.taken.read().contains(&ino.0);
        if taken && let Some(number) = self.was_given(dev, ino, born)? {
            return Ok(number);
        }
        // What is said of the past is of the file that had the number then.
        let other = known
            && self.lineage().origin(&*self.store.kv, ino).map_err(failed)?.is_some_and(|o| !same(&o, dev, ino, born));
        if other { self.given(dev, ino, born) } else { Ok(ino) }
    }

    /// Whether what is known under a number now is this base file; `None` when nothing is.
    fn is_of(&self, dev: u64, ino: Ino, born: Option<Time>, memory: bool) -> Result<Option<bool>> {
        let is = |origin: Option<&Origin>| origin.is_some_and(|o| same(o, dev, ino, born));
        // Who removes or moves the file holds its state's lock and asks for its number: then the log has to answer.
        if memory
            && let Some(inode) = self.inodes.get(ino)
            && let Some(state) = inode.state.try_read()
        {
            return Ok(Some(is(state.origin.as_deref())));
        }
        Ok(self.record(ino)?.map(|record| is(record.origin.as_ref())))
    }

    /// The number given to a base file that cannot have its own.
    fn given(&self, dev: u64, ino: Ino, born: Option<Time>) -> Result<Ino> {
        if let Some(number) = self.was_given(dev, ino, born)? {
            return Ok(number);
        }
        let number = self.allocate()?;
        let mut batch = Batch::new();
        batch.put(Table::Meta, &foreign(dev, ino, born), &number.0.to_le_bytes());
        self.store.kv.commit(&batch, Sync::No).map_err(failed)?;
        if dev == self.root_dev {
            self.taken.write().insert(ino.0);
        }
        Ok(number)
    }

    fn was_given(&self, dev: u64, ino: Ino, born: Option<Time>) -> Result<Option<Ino>> {
        match self.store.kv.get(Table::Meta, &foreign(dev, ino, born)).map_err(failed)? {
            Some(bytes) => {
                let number = bytes.try_into().map(u64::from_le_bytes).map_err(|_| Errno::EIO)?;
                Ok(Some(Ino(number)))
            }
            None => Ok(None),
        }
    }

    /// A number that nothing had before.
    pub(crate) fn allocate(&self) -> Result<Ino> {
        let n = self.store.counters.next(&*self.store.kv, Counter::Ino).map_err(failed)?;
        Ok(Ino(Ino::BORN | n))
    }
}

fn foreign(dev: u64, ino: Ino, born: Option<Time>) -> keys::Key {
    keys::foreign(dev, ino.0, born.map_or(0, |b| b.as_nanos() as u64))
}

/// Whether a base file is the one of which an origin tells. Where one of them has no birth time, the number decides.
fn same(origin: &Origin, dev: u64, ino: Ino, born: Option<Time>) -> bool {
    (origin.dev, origin.ino) == (dev, ino.0) && (origin.born.is_none() || born.is_none() || origin.born == born)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::DirBase;
    use crate::overlay::ops::setattr::SetAttr;
    use crate::overlay::{Ctx, NoJournal};
    use crate::store::Data;
    use crate::store::codec;
    use crate::store::format::{Format, Owner};
    use crate::store::mem::MemKv;
    use crate::types::{ActorId, Epoch};

    #[test]
    fn a_number_that_was_given_is_kept_whatever_the_log_forgets() {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().join("repo");
        std::fs::create_dir(&repo).unwrap();
        std::fs::write(repo.join("first"), b"first").unwrap();
        let owner = Owner { repo: repo.clone(), root_ino: 1, root_born: None };
        let format = Format::create_or_load(dir.path(), &owner).unwrap();
        let data = Data::open(&dir.path().join("data")).unwrap();
        let store = Arc::new(Store::from_parts(dir.path(), Arc::new(MemKv::new()), data, format).unwrap());
        let base = Arc::new(DirBase::open(&repo).unwrap());
        let open = || Overlay::open(store.clone(), base.clone(), Arc::new(NoJournal(store.clone())), false).unwrap();
        let overlay = open();
        let ctx = Ctx { actor: ActorId(1), uid: 0, gid: 0, now: Time::new(9, 9), epoch: Epoch(1), shared: false };
        let first = overlay.lookup(&overlay.root().clone(), b"first").unwrap();
        overlay.remember(&first);
        overlay.setattr(&ctx, &first, &SetAttr { perm: Some(0o600), ..SetAttr::default() }).unwrap();
        let (number, dev) = (first.ino, overlay.root_dev);
        let born = first.state.read().origin.as_ref().unwrap().born;
        assert!(born.is_some(), "this test needs a file system with birth times");
        // Others that got its number after it was deleted.
        let (second, third) = (Some(Time::new(1, 2)), Some(Time::new(3, 4)));
        assert_eq!(overlay.logged_number(dev, number, born), Ok(number));
        let given = overlay.logged_number(dev, number, second).unwrap();
        assert_ne!(given, number);
        // As after a rewind to before the change.
        let mut batch = Batch::new();
        batch.put(Table::Tree, &keys::inode(overlay.timeline(), number, Epoch(1)), b"");
        store.kv.commit(&batch, Sync::No).unwrap();
        for overlay in [&overlay, &open()] {
            assert_eq!(overlay.logged_number(dev, number, second), Ok(given));
            assert_eq!(overlay.logged_number(dev, number, born), Ok(number));
        }
        assert_eq!(overlay.logged_number(dev, number, third), Ok(number), "nothing tells of another file any more");
        // What the past says of a number is said of the file that had it then.
        let mut record = Vec::new();
        codec::put_inode(&mut record, &first.state.read().record());
        batch.put(Table::Tree, &keys::inode(overlay.timeline(), number, Epoch::BASE), &record);
        store.kv.commit(&batch, Sync::No).unwrap();
        let other = overlay.logged_number(dev, number, third).unwrap();
        assert!(other != number && other != given, "{other}");
    }
}
