//! The same question, answered the slow way: which states does some point of history need? And does the index have what it must?

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use regentfs::store::lineage::{Lineage, Touched};
use regentfs::store::{Kv, Table, keys};
use regentfs::types::{At, Epoch, Timeline};

use crate::world::World;

/// The states of one inode or name: by timeline and epoch, whether they say that there is something.
type States = BTreeMap<(Timeline, Epoch), bool>;

fn subjects(kv: &dyn Kv) -> BTreeMap<Vec<u8>, States> {
    let mut found: BTreeMap<Vec<u8>, States> = BTreeMap::new();
    for range in [(b"i", b"j"), (b"d", b"e")] {
        kv.scan(Table::Tree, range.0, range.1, &mut |key, value| {
            let subject = [&key[..1], &key[9..key.len() - 8]].concat();
            let timeline = keys::timeline_of(key).unwrap();
            let epoch = Epoch(!keys::last_number(key).unwrap());
            found.entry(subject).or_default().insert((timeline, epoch), !value.is_empty());
            ControlFlow::Continue(())
        })
        .unwrap();
    }
    found
}

/// What a point sees: the state, and whether it says that there is something.
fn seen(states: &States, lineage: &Lineage) -> Option<((Timeline, Epoch), bool)> {
    lineage.segments().iter().find_map(|at| {
        let range = (at.timeline, Epoch::BASE)..=(at.timeline, at.epoch);
        states.range(range).next_back().map(|(&key, &is)| (key, is))
    })
}

/// States that are there though no point needs them.
pub fn useless(world: &World, points: &[At]) -> Vec<String> {
    let kv = &*world.store.kv;
    let mut lineages: BTreeMap<At, Lineage> = points.iter().map(|&at| (at, Lineage::of(kv, at).unwrap())).collect();
    // Where timelines fork off that are needed.
    for lineage in lineages.values().cloned().collect::<Vec<_>>() {
        for &at in lineage.segments() {
            lineages.insert(at, Lineage::of(kv, at).unwrap());
        }
    }
    let heads: BTreeSet<(Timeline, Epoch)> =
        world.timelines().iter().filter(|t| !t.deleted).map(|t| (t.id, t.head)).collect();
    let mut useless = Vec::new();
    for (subject, states) in subjects(kv) {
        for (&key, &is) in states.iter().filter(|(key, _)| !heads.contains(key)) {
            let mut without = states.clone();
            without.remove(&key);
            let needs = |lineage: &Lineage| {
                let found = seen(&states, lineage);
                let otherwise = seen(&without, lineage);
                // That there is none has to be said only over something.
                if is {
                    found != otherwise
                } else {
                    otherwise.is_some_and(|(_, is)| is) && found.map(|f| f.0) == Some(key)
                }
            };
            if !lineages.values().any(needs) {
                useless.push(format!("{subject:?} {key:?} {is}"));
            }
        }
    }
    useless
}

/// What differs between two points, but is not in the index of what changed between them.
pub fn missing_in_the_index(world: &World, points: &[At]) -> Vec<String> {
    let kv = &*world.store.kv;
    let subjects = subjects(kv);
    let mut missing = Vec::new();
    let lineages: Vec<Lineage> =
        points.iter().map(|&at| Lineage::of(kv, at).unwrap()).chain([Lineage::base()]).collect();
    for (n, one) in lineages.iter().enumerate() {
        for two in &lineages[n + 1..] {
            let mut touched = BTreeSet::new();
            Lineage::touched(kv, one, two, &mut |it| {
                touched.insert(match it {
                    Touched::Inode { ino, .. } => [&b"i"[..], &ino.0.to_be_bytes()].concat(),
                    Touched::Name { dir, name, .. } => [&b"d"[..], &dir.0.to_be_bytes(), &name, &[0]].concat(),
                });
            })
            .unwrap();
            for (subject, states) in &subjects {
                let what = |lineage| seen(states, lineage).filter(|(_, is)| *is);
                if what(one) != what(two) && !touched.contains(subject) {
                    missing.push(format!("{subject:?} between {:?} and {:?}", one.at(), two.at()));
                }
            }
        }
    }
    missing
}
