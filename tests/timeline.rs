//! Timelines through the real binary: forked, mounted side by side, switched in place, and the past beside the present.

mod common;

#[path = "timeline/applied.rs"]
mod applied;
#[path = "timeline/applies.rs"]
mod applies;
#[path = "timeline/beside.rs"]
mod beside;
#[path = "timeline/ends.rs"]
mod ends;
#[path = "timeline/merge.rs"]
mod merge;
#[path = "timeline/random.rs"]
mod random;
#[path = "timeline/revived.rs"]
mod revived;
#[path = "mount/scene.rs"]
mod scene;
#[path = "timeline/stage.rs"]
mod stage;
#[path = "timeline/switch.rs"]
mod switch;
#[path = "timeline/watchers.rs"]
mod watchers;
