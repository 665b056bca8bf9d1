//! Bringing packs and references into the repository on disk: only what is new, each as git itself would do it.

use std::fs::File;
use std::io::{Cursor, Read};

use super::git::{Base, Repo, Scratch};
use super::{Error, Exporter, Result, notes};
use crate::apply::{self, Addition, Root, There};
use crate::types::Path;

/// A reference that is to be, by its full name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub name: String,
    pub tip: String,
    pub was: Was,
}

/// What must be there until it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Was {
    /// Nothing: the name must be free.
    Free,
    /// This commit, or no reference at all.
    Exactly(Option<String>),
}

impl Reference {
    pub fn new_branch(name: &str, tip: &str) -> Reference {
        Reference { name: format!("refs/heads/{name}"), tip: tip.to_owned(), was: Was::Free }
    }

    /// The notes, after those that were there.
    pub fn notes(tip: &str, was: Option<&str>) -> Reference {
        let was = Was::Exactly(was.map(str::to_owned));
        Reference { name: notes::REFERENCE.to_owned(), tip: tip.to_owned(), was }
    }
}

impl Exporter<'_> {
    /// Makes one pack of all that these references need and the repository on disk has not. `wanted` are lines of what to begin and end with.
    pub(super) fn pack(&self, scratch: &Scratch, repo: &Repo, mut wanted: String, of: &[Reference]) -> Result<()> {
        for reference in of {
            wanted.push_str(&format!("{}\n", reference.tip));
            if let Was::Exactly(Some(was)) = &reference.was {
                wanted.push_str(&format!("^{was}\n"));
            }
        }
        let into = scratch.join("repo.git/objects/pack/pack").display().to_string();
        repo.git("pack the commits", &["pack-objects", "-q", "--revs", &into], wanted.as_bytes()).map(drop)
    }

    /// Puts the packs of `repo` and references into the repository on disk, in this order.
    pub(super) fn place(&self, repo: &Repo, references: &[Reference], base: &Base) -> Result<()> {
        let mut files = Vec::new();
        for pack in repo.packs()? {
            // First the pack: git looks for packs by their indexes.
            for ending in ["pack", "idx"] {
                let from = pack.with_extension(ending);
                let Some(file) = from.file_name().and_then(|n| n.to_str()) else { continue };
                let content = File::open(&from).map_err(Error::io("open", &from))?;
                files.push(Addition {
                    path: Path::new(format!(".git/objects/pack/{file}").as_bytes()),
                    // git itself removes these when they are old.
                    temporary: format!("tmp_{ending}_regentfs").into_bytes().into(),
                    content: Box::new(content),
                    perm: 0o444,
                    there: There::Same,
                    still: None,
                });
            }
        }
        for reference in references {
            let last = reference.name.rsplit('/').next().unwrap_or(&reference.name);
            let (there, still) = match &reference.was {
                Was::Free => (There::Refused, None),
                Was::Exactly(was) => {
                    let (ask, was) = (base.asking_for(&reference.name)?, was.clone());
                    (There::Replaced, Some(Box::new(move || ask() == was) as Box<dyn Fn() -> bool>))
                }
            };
            files.push(Addition {
                path: Path::new(format!(".git/{}", reference.name).as_bytes()),
                // The name by which git locks a reference: who holds it changes it, packed or not.
                temporary: format!("{last}.lock").into_bytes().into(),
                content: Box::new(Cursor::new(format!("{}\n", reference.tip).into_bytes())) as Box<dyn Read>,
                perm: 0o644,
                there,
                still,
            });
        }
        let root = self.overlay().base().descriptor().map_err(|e| Error::io("open", "the repository")(e.into()))?;
        let new = self.machine.base_gains(|| apply::add(&Root::new(root), files).map_err(Error::from))?;
        (self.gained)(&new);
        Ok(())
    }
}
