//! Newtypes for the numbers that cross module borders.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// An inode number as the mount shows it (`st_ino`, and the FUSE node id; the root's node id is [`Ino::ROOT`]).
    ///
    /// A base file keeps its base inode number; a file born in the overlay gets [`Ino::BORN`]` | counter`.
    Ino
);
number!(
    /// The counter that a snapshot advances. Every metadata change is stamped with the epoch it happened in. An epoch belongs to one
    /// timeline, and no two have the same; 0 ([`Epoch::BASE`]) is before all others.
    Epoch
);
number!(
    /// One state of one file's bytes in the store. 0 ([`VersionId::BASE`]) means the bytes of the base file.
    VersionId
);
number!(
    /// A process (tgid and start time) as the record knows it. 0 ([`ActorId::KERNEL`]) is the kernel itself.
    ActorId
);
number!(
    /// An event's position in the record; the first is 1, and there are no holes.
    Seq
);
number!(
    /// An open file description inside one mount; unique for the life of the daemon.
    HandleId
);
number!(
    /// A line of history (branch); the first is [`Timeline::MAIN`].
    Timeline
);

/// A point in history: the state at the end of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct At {
    pub timeline: Timeline,
    pub epoch: Epoch,
}

impl At {
    /// What was before all changes: the base.
    pub const BASE: At = At { timeline: Timeline::MAIN, epoch: Epoch::BASE };
}

impl Epoch {
    /// What the base had before the mount, where it had to be written down: before an apply changes it.
    pub const BASE: Epoch = Epoch(0);
    pub const LAST: Epoch = Epoch(u64::MAX);

    pub fn next(self) -> Epoch {
        Epoch(self.0.saturating_add(1))
    }
}

impl Ino {
    /// The root directory's node id, fixed by the FUSE protocol (`FUSE_ROOT_ID`).
    pub const ROOT: Ino = Ino(1);
    /// The bit that marks numbers allocated by regentfs; file systems do not hand out numbers that large.
    pub const BORN: u64 = 1 << 63;

    /// Whether the number was allocated by regentfs rather than taken from the base.
    pub fn is_allocated(self) -> bool {
        self.0 & Self::BORN != 0
    }
}

impl VersionId {
    pub const BASE: VersionId = VersionId(0);
}

impl ActorId {
    /// Requests without a process: writeback of a mapping, release, readahead finished by a kernel thread.
    pub const KERNEL: ActorId = ActorId(0);
}

impl Timeline {
    pub const MAIN: Timeline = Timeline(1);
}
