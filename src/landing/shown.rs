//! Whether the present shows a file of the base, wherever that is.

use std::rc::Rc;

use crate::overlay::places::{Entries, Links, Places};
use crate::overlay::view::View;
use crate::types::{Errno, Ino, Path};

/// What had to be read for the first question serves the next ones.
#[derive(Default)]
pub(super) struct Shown {
    entries: Option<(Rc<Entries>, Option<Rc<Links>>)>,
}

impl Shown {
    /// `path` is where the base has it.
    ///
    /// # Errors
    /// When base or log cannot be read.
    pub fn has(&mut self, now: &View<'_>, ino: Ino, path: &Path) -> Result<bool, Errno> {
        let (entries, links) = match &self.entries {
            Some((entries, links)) => (entries.clone(), links.clone()),
            None => (Places::new(now).collected()?, None),
        };
        let places = Places::with(now, entries.clone());
        if let Some(links) = &links {
            places.know_links(links.clone());
        }
        let mut named = false;
        for place in places.names(ino, Some(path))? {
            named |= places.path_at(&place)?.is_some();
        }
        self.entries = Some((entries, links.or_else(|| places.known_links())));
        Ok(named)
    }
}
