//! What a reader gives: items in order, each once, and what of a session is known so far.
//!
//! It knows no file and no agent's format.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::path::PathBuf;

use super::{Item, What};
use crate::types::Time;

/// The most sessions that one transcript may have in memory. More than that and what is known of them begins anew.
const MOST_SESSIONS: usize = 65_536;

/// What of a record says where it belongs.
pub(super) struct Place {
    /// From 1 on; the first line of a file, or of each of its replacements.
    pub(super) line: u64,
    /// Now, if the line was appended while the file was being watched.
    pub(super) appended: Option<Time>,
}

/// Understands the records of one agent.
pub(super) trait Reader: Send {
    fn record(&mut self, record: &serde_json::Value, place: &Place, out: &mut Out);

    /// The file begins anew, maybe with records that were there before.
    fn restart(&mut self) {}
}

/// What is known of a session.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) cwd: Option<PathBuf>,
    pub(super) version: Option<String>,
    pub(super) model: Option<String>,
}

/// A prompt before it is known whether it was given already.
pub(super) struct Prompt<'a> {
    pub(super) session: &'a str,
    pub(super) id: String,
    pub(super) at: Option<Time>,
    pub(super) cwd: Option<PathBuf>,
    pub(super) text: String,
}

/// A tool call before it is known whether it was given already.
pub(super) struct Call<'a> {
    pub(super) session: &'a str,
    pub(super) id: &'a str,
    pub(super) prompt: Option<String>,
    pub(super) at: Option<Time>,
    pub(super) cwd: Option<PathBuf>,
    pub(super) tool: &'a str,
}

#[derive(Default)]
pub(super) struct Out {
    items: Vec<Item>,
    /// Hashes of the kinds and ids that were given.
    seen: HashSet<[u8; 16]>,
    /// Session to its last prompt.
    prompts: HashMap<String, String>,
    facts: HashMap<String, Facts>,
    /// Records that are not understood.
    pub(super) odd: u64,
}

impl Out {
    pub(super) fn take(&mut self) -> Vec<Item> {
        mem::take(&mut self.items)
    }

    /// Whether this is the first time that something of a kind has this id.
    fn is_first(&mut self, kind: &[u8], id: &str) -> bool {
        let hash = blake3::Hasher::new().update(kind).update(id.as_bytes()).finalize();
        let mut short = [0; 16];
        short.copy_from_slice(hash.as_bytes().split_at(16).0);
        self.seen.insert(short)
    }

    /// Of the facts, those that are there count. A session keeps its first directory.
    pub(super) fn session(&mut self, session: &str, facts: Facts) {
        if facts == Facts::default() {
            return;
        }
        if self.facts.len() >= MOST_SESSIONS {
            self.facts.clear();
        }
        let known = self.facts.entry(session.to_owned()).or_default();
        let Facts { cwd, version, model } = known.clone();
        let now = Facts { cwd: cwd.or(facts.cwd), version: facts.version.or(version), model: facts.model.or(model) };
        if now != *known {
            *known = now.clone();
            let Facts { cwd, version, model } = now;
            self.items.push(Item::Session { session: session.to_owned(), cwd, version, model });
        }
    }

    /// The prompt becomes the last one of its session, even if it was given already. Without a directory of its own it has the session's.
    pub(super) fn prompt(&mut self, prompt: Prompt) {
        let Prompt { session, id, at, cwd, text } = prompt;
        self.last_is(session, Some(id.clone()));
        if self.is_first(b"prompt ", &id) {
            let cwd = cwd.or_else(|| self.cwd_of(session));
            self.items.push(Item::Prompt { session: session.to_owned(), id, at, cwd, text });
        }
    }

    /// A call without a directory of its own has the session's.
    pub(super) fn call(&mut self, call: Call, what: impl FnOnce() -> What) {
        if self.is_first(b"call ", call.id) {
            let Call { session, id, prompt, at, cwd, tool } = call;
            let cwd = cwd.or_else(|| self.cwd_of(session));
            let (session, id, tool) = (session.to_owned(), id.to_owned(), tool.to_owned());
            self.items.push(Item::Call { session, id, prompt, at, cwd, tool, what: what() });
        }
    }

    pub(super) fn done(&mut self, session: &str, id: &str, at: Option<Time>, failed: Option<bool>) {
        if self.is_first(b"done ", id) {
            self.items.push(Item::Done { session: session.to_owned(), id: id.to_owned(), at, failed });
        }
    }

    /// The last prompt of a session.
    pub(super) fn prompt_of(&self, session: &str) -> Option<String> {
        self.prompts.get(session).cloned()
    }

    pub(super) fn last_is(&mut self, session: &str, prompt: Option<String>) {
        if self.prompts.len() >= MOST_SESSIONS {
            self.prompts.clear();
        }
        match prompt {
            Some(prompt) => self.prompts.insert(session.to_owned(), prompt),
            None => self.prompts.remove(session),
        };
    }

    pub(super) fn cwd_of(&self, session: &str) -> Option<PathBuf> {
        self.facts.get(session)?.cwd.clone()
    }
}

/// An id for what has none: the session, a number that tells equal ones apart, and the text, so that other text has another one.
pub(super) fn made_id(session: &str, number: u64, text: &str) -> String {
    let hash = blake3::hash(text.as_bytes()).to_hex();
    format!("{session}:{number}:{}", hash.get(..12).unwrap_or_default())
}
