//! Which mounts of a store show what.
//!
//! One per process that has a store open; changed only with the store's lock of operations. A timeline is shown for changing by one overlay at most.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Gate;
use crate::overlay::{Overlay, Shown};
use crate::types::{At, Timeline};

/// See the module.
#[derive(Default)]
pub struct Showing {
    list: Mutex<Vec<Place>>,
}

struct Place {
    overlay: Weak<Overlay>,
    gate: Arc<Gate>,
    at: PathBuf,
}

impl Showing {
    /// An overlay is shown at a directory from now on.
    pub fn add(&self, overlay: &Arc<Overlay>, gate: &Arc<Gate>, at: &Path) {
        let (overlay, gate, at) = (Arc::downgrade(overlay), gate.clone(), at.to_owned());
        self.list.lock().push(Place { overlay, gate, at });
    }

    /// All overlays but one.
    pub fn others(&self, one: &Arc<Overlay>) -> Vec<(Arc<Overlay>, Arc<Gate>)> {
        let list = self.list.lock();
        let all = list.iter().filter_map(|place| Some((place.overlay.upgrade()?, place.gate.clone())));
        all.filter(|(overlay, _)| !Arc::ptr_eq(overlay, one)).collect()
    }

    /// It is no longer shown.
    pub fn remove(&self, overlay: &Arc<Overlay>) {
        self.list.lock().retain(|place| !std::ptr::eq(place.overlay.as_ptr(), Arc::as_ptr(overlay)));
    }

    fn find<T>(&self, what: impl Fn(&Overlay, &Path) -> Option<T>) -> Option<T> {
        self.list.lock().iter().find_map(|place| what(&*place.overlay.upgrade()?, &place.at))
    }

    /// Where a timeline is shown for changing.
    pub fn place_of(&self, timeline: Timeline) -> Option<PathBuf> {
        self.find(|overlay, at| (overlay.shown() == Shown::Timeline(timeline)).then(|| at.to_owned()))
    }

    /// The overlay that shows a timeline for changing, with the gate that keeps changes out of it.
    pub fn of(&self, timeline: Timeline) -> Option<(Arc<Overlay>, Arc<Gate>)> {
        self.list.lock().iter().find_map(|place| {
            let overlay = place.overlay.upgrade()?;
            (overlay.shown() == Shown::Timeline(timeline)).then(|| (overlay, place.gate.clone()))
        })
    }

    /// Where a point of a timeline's past is shown.
    pub fn past_of(&self, timeline: Timeline) -> Option<PathBuf> {
        self.find(|overlay, at| match overlay.shown() {
            Shown::Past(past) if past.timeline == timeline => Some(at.to_owned()),
            Shown::Past(_) | Shown::Timeline(_) => None,
        })
    }

    /// All points of the past that are shown: their states must stay.
    pub fn pasts(&self) -> Vec<At> {
        let list = self.list.lock();
        let shown = list.iter().filter_map(|place| Some(place.overlay.upgrade()?.shown()));
        shown.filter_map(|s| if let Shown::Past(at) = s { Some(at) } else { None }).collect()
    }
}
