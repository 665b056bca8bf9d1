//! Which snapshots stay: a rule alone. Knows neither a store nor a clock.
//!
//! What is pinned stays whatever the policy says: snapshots with a label, what is mounted, the newest of each timeline, where timelines forked off, and the
//! ends of operations that are young enough to be undone. Of the rest, those that nobody asked for go when they are too old; and any of them, the
//! oldest first, when there is too much.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::store::history::{Operation, Snapshot, TimelineRecord, Why};
use crate::types::{At, Epoch, Time, Timeline};

/// How much of the past is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// How long snapshots that nobody asked for are kept, and how long operations can be undone; `None` for ever.
    pub keep: Option<Duration>,
    /// How large the store may be, in bytes on disk; `None` for as large as it gets.
    pub max_size: Option<u64>,
}

/// All that a store has of the past.
#[derive(Clone, Copy, Debug)]
pub struct Past<'a> {
    pub snapshots: &'a [Snapshot],
    pub timelines: &'a [TimelineRecord],
    pub operations: &'a [Operation],
    /// What is mounted: the newest state of a timeline, or one of the past.
    pub shown: &'a [At],
}

impl Past<'_> {
    /// The snapshots that stay when those in `gone` go as well, as far as they are not pinned.
    pub fn kept(&self, policy: &Policy, now: Time, gone: &BTreeSet<Epoch>) -> BTreeSet<Epoch> {
        let pinned = self.pinned(policy, now);
        let stays = |s: &&Snapshot| {
            let wanted = !self.is_deleted(s.timeline) && (s.why == Why::Manual || !is_over(policy, now, s.time));
            pinned.contains(&s.epoch) || (wanted && !gone.contains(&s.epoch))
        };
        let mut kept: BTreeSet<Epoch> = self.snapshots.iter().filter(stays).map(|s| s.epoch).collect();
        self.add_forks(&mut kept);
        kept
    }

    /// The snapshots that may go for lack of room, those to go first in front.
    pub fn spare(&self, policy: &Policy, now: Time) -> Vec<Epoch> {
        let kept = self.kept(policy, now, &BTreeSet::new());
        let firm = self.kept(policy, now, &kept);
        let mut spare: Vec<&Snapshot> =
            self.snapshots.iter().filter(|s| kept.contains(&s.epoch) && !firm.contains(&s.epoch)).collect();
        spare.sort_by_key(|s| (s.time, s.epoch));
        spare.into_iter().map(|s| s.epoch).collect()
    }

    fn is_deleted(&self, timeline: Timeline) -> bool {
        self.timelines.iter().any(|t| t.id == timeline && t.deleted)
    }

    /// What stays by itself; forks come on top.
    fn pinned(&self, policy: &Policy, now: Time) -> BTreeSet<Epoch> {
        let labels = self.snapshots.iter().filter(|s| s.label.is_some()).map(|s| s.epoch);
        let shown = self.shown.iter().map(|at| at.epoch);
        let last = self.timelines.iter().filter(|t| !t.deleted).map(|t| t.last);
        let newest = self
            .timelines
            .iter()
            .filter(|t| !t.deleted)
            .filter_map(|t| self.snapshots.iter().filter(|s| s.timeline == t.id).map(|s| s.epoch).max());
        let young = self.operations.iter().filter(|o| !is_over(policy, now, o.time));
        // What a merge brought is where the next one goes on.
        let ends =
            young.flat_map(|o| [Some(o.before), Some(o.after), Some(o.last), o.brought]).flatten().map(|at| at.epoch);
        labels.chain(shown).chain(last).chain(newest).chain(ends).collect()
    }

    /// Adds where the timelines forked off that are there or of which a snapshot stays.
    fn add_forks(&self, kept: &mut BTreeSet<Epoch>) {
        let here = |t: &&TimelineRecord| !t.deleted || self.shown.iter().any(|at| at.timeline == t.id);
        let mut needed: BTreeSet<Timeline> = self.timelines.iter().filter(here).map(|t| t.id).collect();
        needed.extend(self.snapshots.iter().filter(|s| kept.contains(&s.epoch)).map(|s| s.timeline));
        let mut pending: Vec<Timeline> = needed.iter().copied().collect();
        while let Some(timeline) = pending.pop() {
            let Some(fork) = self.timelines.iter().find(|t| t.id == timeline).and_then(|t| t.parent) else { continue };
            if self.snapshots.iter().any(|s| s.epoch == fork.epoch) {
                kept.insert(fork.epoch);
            }
            if needed.insert(fork.timeline) {
                pending.push(fork.timeline);
            }
        }
    }
}

fn is_over(policy: &Policy, now: Time, time: Time) -> bool {
    policy.keep.is_some_and(|keep| {
        let keep = i64::try_from(keep.as_nanos()).unwrap_or(i64::MAX);
        time.as_nanos() < now.as_nanos().saturating_sub(keep)
    })
}

/// How many have to go until `total` bytes are at most `most`. `freed` says what goes with each, after those in front of it. None goes for
/// nothing: behind the last one with bytes of its own all stay.
pub fn beyond(total: u64, most: u64, freed: &[u64]) -> usize {
    let (mut left, mut count) = (total, 0);
    for (at, &bytes) in freed.iter().enumerate() {
        if left <= most {
            break;
        }
        left = left.saturating_sub(bytes);
        if bytes > 0 {
            count = at + 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::history::OpKind;

    const DAY: i64 = 86400;

    fn snapshot(timeline: u64, epoch: u64, day: i64, why: Why) -> Snapshot {
        Snapshot {
            epoch: Epoch(epoch),
            timeline: Timeline(timeline),
            previous: Epoch::BASE,
            time: Time::new(day * DAY, 0),
            why,
            label: None,
            note: String::new(),
        }
    }

    fn timeline(id: u64, parent: Option<(u64, u64)>, head: u64, last: u64) -> TimelineRecord {
        TimelineRecord {
            id: Timeline(id),
            name: String::new(),
            parent: parent.map(|(t, e)| At { timeline: Timeline(t), epoch: Epoch(e) }),
            head: Epoch(head),
            last: Epoch(last),
            created: Time::default(),
            deleted: false,
        }
    }

    fn operation(day: i64, before: u64, after: u64, last: u64) -> Operation {
        let at = |e| At { timeline: Timeline::MAIN, epoch: Epoch(e) };
        Operation {
            id: 1,
            time: Time::new(day * DAY, 0),
            kind: OpKind::Rewind,
            before: at(before),
            after: at(after),
            last: at(last),
            kept: 0,
            brought: None,
            undone: false,
            note: String::new(),
        }
    }

    struct World {
        snapshots: Vec<Snapshot>,
        timelines: Vec<TimelineRecord>,
        operations: Vec<Operation>,
        shown: Vec<At>,
        policy: Policy,
    }

    impl World {
        /// Ten steps of the main timeline, one a day; it is the tenth day, and three days are kept.
        fn new() -> World {
            World {
                snapshots: (1..=10).map(|n| snapshot(1, n, n as i64, Why::Step)).collect(),
                timelines: vec![timeline(1, None, 11, 10)],
                operations: Vec::new(),
                shown: Vec::new(),
                policy: Policy { keep: Some(Duration::from_secs(3 * DAY as u64)), max_size: None },
            }
        }

        fn past(&self) -> Past<'_> {
            Past {
                snapshots: &self.snapshots,
                timelines: &self.timelines,
                operations: &self.operations,
                shown: &self.shown,
            }
        }

        fn kept(&self) -> Vec<u64> {
            self.kept_without(&[])
        }

        fn kept_without(&self, gone: &[u64]) -> Vec<u64> {
            let gone = gone.iter().map(|&e| Epoch(e)).collect();
            self.past().kept(&self.policy, Time::new(10 * DAY, 0), &gone).into_iter().map(|e| e.0).collect()
        }

        fn spare(&self) -> Vec<u64> {
            self.past().spare(&self.policy, Time::new(10 * DAY, 0)).into_iter().map(|e| e.0).collect()
        }
    }

    #[test]
    fn old_ones_go_that_nobody_asked_for() {
        let mut world = World::new();
        assert_eq!(world.kept(), [7, 8, 9, 10]);
        world.snapshots[1].why = Why::Manual;
        world.snapshots[2].label = Some("here".into());
        assert_eq!(world.kept(), [2, 3, 7, 8, 9, 10]);
        assert_eq!(world.kept_without(&[2, 3, 7, 10]), [3, 8, 9, 10], "a label and the newest are pinned");
        assert_eq!(world.spare(), [2, 7, 8, 9]);
        world.policy.keep = None;
        assert_eq!(world.kept().len(), 10);
    }

    #[test]
    fn the_newest_of_each_timeline_stays_and_where_it_forked_off() {
        let mut world = World::new();
        world.timelines.push(timeline(2, Some((1, 2)), 22, 20));
        world.snapshots.push(snapshot(2, 20, 3, Why::Step));
        world.snapshots.push(snapshot(2, 19, 3, Why::Step));
        assert_eq!(world.kept(), [2, 7, 8, 9, 10, 20]);
        // One without snapshots of its own.
        world.timelines.push(timeline(3, Some((2, 19)), 23, 19));
        assert_eq!(world.kept(), [2, 7, 8, 9, 10, 19, 20]);
        world.timelines[2].deleted = true;
        assert_eq!(world.kept(), [2, 7, 8, 9, 10, 20]);
        // Of a deleted one only what has a label stays, with the way to it.
        world.timelines[1].deleted = true;
        assert_eq!(world.kept(), [7, 8, 9, 10]);
        world.snapshots[10].label = Some("here".into());
        assert_eq!(world.kept(), [2, 7, 8, 9, 10, 20]);
        world.snapshots[10].label = None;
        world.timelines[2].deleted = false;
        assert_eq!(world.kept(), [2, 7, 8, 9, 10, 19], "through one that is deleted");
        assert_eq!(world.spare(), [7, 8, 9]);
    }

    #[test]
    fn what_can_be_undone_or_is_shown_stays() {
        let mut world = World::new();
        world.operations.push(operation(8, 3, 4, 5));
        world.shown.push(At { timeline: Timeline::MAIN, epoch: Epoch(1) });
        assert_eq!(world.kept(), [1, 3, 4, 5, 7, 8, 9, 10]);
        world.operations[0].time = Time::new(6 * DAY, 0);
        assert_eq!(world.kept(), [1, 7, 8, 9, 10]);
        assert_eq!(world.spare(), [7, 8, 9]);
    }

    #[test]
    fn what_was_merged_stays_as_long_as_that_can_be_undone() {
        let mut world = World::new();
        world.timelines.push(timeline(2, Some((1, 2)), 24, 23));
        world.snapshots.extend([20, 21, 22, 23].map(|n| snapshot(2, n, 3, Why::Before)));
        let brought = Some(At { timeline: Timeline(2), epoch: Epoch(21) });
        world.operations.push(Operation { kind: OpKind::Merge, brought, ..operation(8, 3, 4, 4) });
        assert_eq!(world.kept(), [2, 3, 4, 7, 8, 9, 10, 21, 23]);
        world.operations[0].time = Time::new(6 * DAY, 0);
        assert_eq!(world.kept(), [2, 7, 8, 9, 10, 23]);
    }

    #[test]
    fn no_more_go_than_have_to() {
        assert_eq!(beyond(100, 100, &[50, 50]), 0);
        assert_eq!(beyond(100, 99, &[0, 50, 50]), 2);
        assert_eq!(beyond(100, 10, &[0, 50, 0, 10, 0]), 4, "not enough, but all there is");
        assert_eq!(beyond(100, 10, &[0, 0]), 0);
    }
}
