//! Going through the states of a timeline, and taking away those that no point sees. Knows nothing of bytes.

use std::ops::ControlFlow;

use rustc_hash::FxHashSet;

use super::{Hand, Points};
use crate::store::codec::{self, Content};
use crate::store::lineage::Lineage;
use crate::store::{Kv, Result, StoreError, Table, keys};
use crate::types::{Epoch, Ino, Timeline, VersionId};

/// Keys read at a time.
const PAGE: usize = 4096;

/// A state, as far as it matters here.
pub(super) struct State {
    pub key: keys::Key,
    pub epoch: Epoch,
    /// It says that there is none.
    pub empty: bool,
    /// The version that it refers to.
    pub version: Option<VersionId>,
}

/// Which kind of state.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Inodes,
    Names,
}

impl Family {
    pub const ALL: [Family; 2] = [Family::Inodes, Family::Names];

    fn read(self, key: &[u8], value: &[u8]) -> Result<State> {
        let bad = || StoreError::corrupt(format!("the tree entry {}", crate::types::hex(key)));
        let (epoch, version) = match self {
            Family::Names => (keys::parse_dentry(key).ok_or_else(bad)?.2, None),
            Family::Inodes => {
                let (ino, epoch) = keys::parse_inode(key).ok_or_else(bad)?;
                let content = if value.is_empty() { Content::None } else { codec::get_inode(ino, value)?.content };
                let version = match content {
                    Content::Version { id, .. } => Some(id),
                    Content::None | Content::Base => None,
                };
                (epoch, version)
            }
        };
        Ok(State { key: keys::Key::from_slice(key), epoch, empty: value.is_empty(), version })
    }

    fn touched(self, timeline: Timeline, state: &State) -> Option<keys::Key> {
        match self {
            Family::Inodes => {
                keys::parse_inode(&state.key).map(|(ino, epoch)| keys::touched_inode(timeline, epoch, ino))
            }
            Family::Names => {
                keys::parse_dentry(&state.key).map(|(dir, name, epoch)| keys::touched_name(timeline, epoch, dir, name))
            }
        }
    }
}

/// What a key is a state of: all but its epoch.
fn subject(key: &[u8]) -> &[u8] {
    key.get(..key.len().saturating_sub(8)).unwrap_or_default()
}

/// Hands over the states of each inode or name of a timeline, the newest first. Others may write meanwhile, and so may `each`.
pub(super) fn each_subject(
    kv: &dyn Kv,
    family: Family,
    timeline: Timeline,
    each: &mut dyn FnMut(&[State]) -> Result<()>,
) -> Result<()> {
    let (from, to) = match family {
        Family::Inodes => keys::all_inodes(timeline),
        Family::Names => keys::all_dentries(timeline),
    };
    let (mut from, mut states) = (from.to_vec(), Vec::<State>::new());
    loop {
        let (mut page, mut bad) = (Vec::with_capacity(PAGE), None);
        kv.scan(Table::Tree, &from, &to, &mut |key, value| {
            match family.read(key, value) {
                Ok(state) => page.push(state),
                Err(error) => bad = Some(error),
            }
            if bad.is_some() || page.len() >= PAGE { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if let Some(error) = bad {
            return Err(error);
        }
        let Some(last) = page.last() else { break };
        from = [&last.key[..], &[0]].concat();
        for state in page {
            if states.first().is_some_and(|first| subject(&first.key) != subject(&state.key)) {
                each(&states)?;
                states.clear();
            }
            states.push(state);
        }
    }
    if states.is_empty() { Ok(()) } else { each(&states) }
}

/// Takes away the states of a timeline that no point sees. Adds the versions that the others use.
pub(super) fn sweep(
    hand: &mut Hand<'_>,
    points: &Points,
    timeline: Timeline,
    used: &mut FxHashSet<VersionId>,
    count: &mut u64,
) -> Result<()> {
    let kv = &*hand.store.kv;
    for family in Family::ALL {
        each_subject(kv, family, timeline, &mut |states| {
            let kept = kept(kv, points, family, timeline, states)?;
            for (state, kept) in states.iter().zip(kept) {
                if kept {
                    used.extend(state.version);
                    continue;
                }
                hand.room(2)?;
                hand.batch.delete(Table::Tree, &state.key);
                if let Some(touched) = family.touched(timeline, state) {
                    hand.batch.delete(Table::Tree, &touched);
                }
                *count += 1;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Which of the states of one inode or name stay.
fn kept(kv: &dyn Kv, points: &Points, family: Family, timeline: Timeline, states: &[State]) -> Result<Vec<bool>> {
    let mut next = None;
    let mut kept: Vec<bool> = states
        .iter()
        .map(|state| {
            let newer = next.replace(state.epoch);
            points.is_open(timeline, state.epoch) || !points.seeing(timeline, state.epoch, newer).is_empty()
        })
        .collect();
    // That there is none says nothing where there would be none anyway. From the oldest on.
    let mut something = None;
    for (state, kept) in states.iter().zip(&mut kept).rev().filter(|(_, kept)| **kept) {
        if state.empty && !points.is_open(timeline, state.epoch) {
            let below = match something {
                Some(below) => below,
                None => inherited(kv, points, family, timeline, state)?,
            };
            *kept = below;
        }
        if *kept || something.is_none() {
            something = Some(!state.empty);
        }
    }
    Ok(kept)
}

/// Whether a timeline would see something of what a state is of, had it no state itself.
fn inherited(kv: &dyn Kv, points: &Points, family: Family, timeline: Timeline, state: &State) -> Result<bool> {
    let Some(fork) = points.timelines.get(&timeline).and_then(|t| t.parent) else { return Ok(false) };
    let lineage = Lineage::of(kv, fork)?;
    Ok(match family {
        Family::Inodes => {
            let ino = keys::parse_inode(&state.key).map_or(Ino(0), |(ino, _)| ino);
            lineage.inode(kv, ino)?.is_some()
        }
        Family::Names => match keys::parse_dentry(&state.key) {
            Some((dir, name, _)) => lineage.dentry(kv, dir, name)?.is_some(),
            None => true,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::mem::MemKv;
    use crate::store::{Batch, Sync};

    #[test]
    fn states_stay_together_across_pages() {
        let kv = MemKv::new();
        let mut batch = Batch::new();
        let counts = [1, PAGE as u64 - 1, 3, PAGE as u64 + 5, 1, 2 * PAGE as u64, 7];
        for (n, &count) in counts.iter().enumerate() {
            for epoch in 1..=count {
                let name = format!("name{n}");
                batch.put(Table::Tree, &keys::dentry(Timeline(2), Ino(9), name.as_bytes(), Epoch(epoch)), &[]);
                batch.put(Table::Tree, &keys::dentry(Timeline(3), Ino(9), name.as_bytes(), Epoch(epoch)), &[]);
            }
        }
        kv.commit(&batch, Sync::No).unwrap();
        let mut found = Vec::new();
        each_subject(&kv, Family::Names, Timeline(2), &mut |states| {
            assert!(states.windows(2).all(|w| w[0].epoch > w[1].epoch), "the newest first");
            found.push(states.len() as u64);
            Ok(())
        })
        .unwrap();
        assert_eq!(found, counts);
        each_subject(&kv, Family::Inodes, Timeline(2), &mut |_| panic!("there are none")).unwrap();
    }
}
