//! `regentfs apply --as-branch`: commits that were made in the mount, over into the repository on disk by git itself.
//!
//! The pack is made here, in the mount, and checked by the daemon before anything of it comes into the repository.

use anyhow::{Result, bail};

use super::output::Output;
use super::repo::Repo;
use super::{export, source, source::Source};
use crate::control::protocol::{Bring, Request};
use crate::export::Mounted;
use crate::timeline::rows::KnownRow;
use crate::types::hex;

/// Brings the commits of the mount's HEAD over as a branch.
pub fn run(repo: &Repo, name: &str, json: bool) -> Result<()> {
    let root = repo.root.display();
    let Some(mountpoint) = source::mountpoints(repo).into_iter().next() else {
        bail!(
            "{root} is not mounted, and commits that were made in a mount are read through it: `regentfs mount` first"
        );
    };
    let mut known = Vec::new();
    let first = Request::Bring(Bring { branch: name.to_owned(), ..Bring::default() });
    Source::of(repo)?.ask(&first, &mut |row: KnownRow| {
        known = row.objects;
        Ok(())
    })?;
    let mounted = Mounted::open(&mountpoint)?;
    let Some(tip) = mounted.head() else { bail!("there is no commit in the mount yet: `git commit` in it first") };
    let Some(pack) = mounted.pack(&tip, &known)? else {
        bail!("{root} has all commits of the mount's HEAD already: nothing to bring over");
    };
    let pack = hex(pack.as_os_str().as_encoded_bytes());
    let request = Request::Bring(Bring { branch: name.to_owned(), tip: Some(tip), pack });
    export::branch(Source::of(repo)?, &request, json, &mut Output::new())
}
