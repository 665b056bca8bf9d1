//! What somebody adds to the base on purpose while it is covered: the mount shows it, where nothing covers it.

use std::collections::BTreeMap;

use super::machine::{Machine, TimeError};
use crate::overlay::view::View;
use crate::types::{Errno, Ino, Name, Path};

impl Machine {
    /// Runs `add`, which adds files to the base and says which; nothing else that concerns the base goes on meanwhile. History is not told: such files show in
    /// every state that has their directory. Other mounts are to be told by [`Machine::show_gained`].
    ///
    /// # Errors
    /// Those of `add`; when the log cannot be read, though the files are there then.
    pub fn base_gains<E: From<TimeError>>(&self, add: impl FnOnce() -> Result<Vec<Path>, E>) -> Result<Vec<Path>, E> {
        let _busy = self.begin();
        let paths = add()?;
        self.overlay.base().forget();
        self.show_gained(&paths)?;
        Ok(paths)
    }

    /// The base has something new at these paths.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn show_gained(&self, paths: &[Path]) -> Result<(), TimeError> {
        let os = |errno: Errno| TimeError::Os { what: "it is done, but the mount may not show it", errno };
        let stale = {
            let _gate = self.gate.close();
            let now = View::now(&self.overlay);
            let mut names: BTreeMap<(Ino, Name), Path> = BTreeMap::new();
            for path in paths {
                let Some((dir, name)) = path.split_last() else { continue };
                if let Some(dir) = now.find(&dir).map_err(os)? {
                    names.insert((dir.ino, name.into()), path.clone());
                }
            }
            self.overlay.reload(&BTreeMap::new(), &names).map_err(os)?
        };
        self.tell(&stale);
        Ok(())
    }
}
