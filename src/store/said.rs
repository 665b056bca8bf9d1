//! What agents wrote about themselves, copied from their transcripts: sessions, prompts and tool calls. It says what an agent claims; what happened is in
//! the record.

use std::ops::ControlFlow;

use super::codec::{Reader, Writer};
use super::{Batch, Kv, Result, StoreError, Table, keys};
use crate::types::Time;

/// A session, as its agent calls it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaidSession {
    pub agent: String,
    pub session: String,
    pub version: String,
    pub model: String,
    pub cwd: Vec<u8>,
}

/// What a user asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    pub agent: String,
    pub session: String,
    pub id: String,
    /// When, as the agent says.
    pub at: Option<Time>,
    pub cwd: Vec<u8>,
    /// Secrets with a known form are taken out.
    pub text: String,
}

/// What a tool was to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Act {
    /// A shell's script, without secrets.
    Command(Vec<u8>),
    /// A file's whole content, by its BLAKE3 hash.
    Write {
        path: Vec<u8>,
        hash: [u8; 32],
        len: u64,
    },
    /// One text in a file replaced by another, of which this is the beginning.
    Edit {
        path: Vec<u8>,
        new: Vec<u8>,
    },
    Read {
        path: Vec<u8>,
    },
    #[default]
    Other,
}

/// A tool call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    pub agent: String,
    pub session: String,
    pub id: String,
    /// The prompt that it belongs to.
    pub prompt: Option<String>,
    pub at: Option<Time>,
    pub cwd: Vec<u8>,
    pub tool: String,
    pub act: Act,
    /// When its result was there, and whether it failed.
    pub done: Option<Time>,
    pub failed: Option<bool>,
}

const LAYOUT: u8 = 1;

fn text(r: &mut Reader<'_>) -> Result<String> {
    Ok(String::from_utf8_lossy(r.bytes()?).into_owned())
}

fn put_maybe(w: &mut Writer<'_>, time: Option<Time>) {
    w.u8(u8::from(time.is_some()));
    w.time(time.unwrap_or_default());
}

fn get_maybe(r: &mut Reader<'_>) -> Result<Option<Time>> {
    let there = flag(r)?;
    let time = r.time()?;
    Ok(there.then_some(time))
}

fn flag(r: &mut Reader<'_>) -> Result<bool> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(r.corrupt("a flag is neither 0 nor 1")),
    }
}

fn hash(r: &mut Reader<'_>) -> Result<[u8; 32]> {
    let mut hash = [0; 32];
    hash.copy_from_slice(r.take(32)?);
    Ok(hash)
}

pub fn put_session(batch: &mut Batch, s: &SaidSession) {
    let mut value = Vec::new();
    let mut w = Writer(&mut value);
    w.u8(LAYOUT);
    for text in [&s.agent, &s.session, &s.version, &s.model] {
        w.bytes(text.as_bytes());
    }
    w.bytes(&s.cwd);
    batch.put(Table::Meta, &keys::said(b's', &s.agent, &s.session, ""), &value);
}

fn get_session(value: &[u8]) -> Result<SaidSession> {
    let mut r = Reader::new(value, "session of an agent");
    r.layout(LAYOUT)?;
    let (agent, session) = (text(&mut r)?, text(&mut r)?);
    let (version, model) = (text(&mut r)?, text(&mut r)?);
    let cwd = r.bytes()?.to_vec();
    r.end()?;
    Ok(SaidSession { agent, session, version, model, cwd })
}

pub fn put_prompt(batch: &mut Batch, p: &Prompt) {
    let mut value = Vec::new();
    let mut w = Writer(&mut value);
    w.u8(LAYOUT);
    for text in [&p.agent, &p.session, &p.id] {
        w.bytes(text.as_bytes());
    }
    put_maybe(&mut w, p.at);
    w.bytes(&p.cwd);
    w.bytes(p.text.as_bytes());
    batch.put(Table::Meta, &keys::said(b'p', &p.agent, &p.session, &p.id), &value);
}

fn get_prompt(value: &[u8]) -> Result<Prompt> {
    let mut r = Reader::new(value, "prompt");
    r.layout(LAYOUT)?;
    let (agent, session, id) = (text(&mut r)?, text(&mut r)?, text(&mut r)?);
    let at = get_maybe(&mut r)?;
    let (cwd, prompt) = (r.bytes()?.to_vec(), text(&mut r)?);
    r.end()?;
    Ok(Prompt { agent, session, id, at, cwd, text: prompt })
}

pub fn put_call(batch: &mut Batch, c: &Call) {
    let mut value = Vec::new();
    let mut w = Writer(&mut value);
    w.u8(LAYOUT);
    for text in [&c.agent, &c.session, &c.id, &c.tool] {
        w.bytes(text.as_bytes());
    }
    w.u8(u8::from(c.prompt.is_some()));
    w.bytes(c.prompt.as_deref().unwrap_or_default().as_bytes());
    put_maybe(&mut w, c.at);
    put_maybe(&mut w, c.done);
    w.u8(match c.failed {
        None => 0,
        Some(false) => 1,
        Some(true) => 2,
    });
    w.bytes(&c.cwd);
    match &c.act {
        Act::Other => w.u8(0),
        Act::Command(script) => {
            w.u8(1);
            w.bytes(script);
        }
        Act::Write { path, hash, len } => {
            w.u8(2);
            w.bytes(path);
            w.0.extend_from_slice(hash);
            w.u64(*len);
        }
        Act::Edit { path, new } => {
            w.u8(3);
            w.bytes(path);
            w.bytes(new);
        }
        Act::Read { path } => {
            w.u8(4);
            w.bytes(path);
        }
    }
    batch.put(Table::Meta, &keys::said(b'c', &c.agent, &c.session, &c.id), &value);
}

fn get_call(value: &[u8]) -> Result<Call> {
    let mut r = Reader::new(value, "tool call");
    r.layout(LAYOUT)?;
    let (agent, session) = (text(&mut r)?, text(&mut r)?);
    let (id, tool) = (text(&mut r)?, text(&mut r)?);
    let has_prompt = flag(&mut r)?;
    let prompt = Some(text(&mut r)?).filter(|_| has_prompt);
    let (at, done) = (get_maybe(&mut r)?, get_maybe(&mut r)?);
    let failed = match r.u8()? {
        0 => None,
        1 => Some(false),
        2 => Some(true),
        _ => return Err(r.corrupt("unknown outcome")),
    };
    let cwd = r.bytes()?.to_vec();
    let act = match r.u8()? {
        0 => Act::Other,
        1 => Act::Command(r.bytes()?.to_vec()),
        2 => Act::Write { path: r.bytes()?.to_vec(), hash: hash(&mut r)?, len: r.u64()? },
        3 => Act::Edit { path: r.bytes()?.to_vec(), new: r.bytes()?.to_vec() },
        4 => Act::Read { path: r.bytes()?.to_vec() },
        _ => return Err(r.corrupt("unknown act")),
    };
    r.end()?;
    Ok(Call { agent, session, id, prompt, at, cwd, tool, act, done, failed })
}

/// Whether an entry can be read, and is under the key that it is to be under.
///
/// # Errors
/// When it cannot be read.
pub fn is_whole(key: &[u8], value: &[u8]) -> Result<bool> {
    let own = match key.get(1) {
        Some(&kind @ b's') => {
            let said = get_session(value)?;
            keys::said(kind, &said.agent, &said.session, "")
        }
        Some(&kind @ b'p') => {
            let prompt = get_prompt(value)?;
            keys::said(kind, &prompt.agent, &prompt.session, &prompt.id)
        }
        Some(&kind @ b'c') => {
            let call = get_call(value)?;
            keys::said(kind, &call.agent, &call.session, &call.id)
        }
        Some(_) | None => return Ok(false),
    };
    Ok(own.as_slice() == key)
}

/// A tool call that is known already.
///
/// # Errors
/// When the log cannot be read.
pub fn call(kv: &dyn Kv, agent: &str, session: &str, id: &str) -> Result<Option<Call>> {
    kv.get(Table::Meta, &keys::said(b'c', agent, session, id))?.map(|value| get_call(&value)).transpose()
}

/// A session that is known already.
///
/// # Errors
/// When the log cannot be read.
pub fn session(kv: &dyn Kv, agent: &str, session: &str) -> Result<Option<SaidSession>> {
    kv.get(Table::Meta, &keys::said(b's', agent, session, ""))?.map(|value| get_session(&value)).transpose()
}

fn all<T>(kv: &dyn Kv, kind: u8, get: &dyn Fn(&[u8]) -> Result<T>) -> Result<Vec<T>> {
    let (from, to) = keys::all_said(kind);
    let (mut found, mut bad): (Vec<T>, Option<StoreError>) = (Vec::new(), None);
    kv.scan(Table::Meta, &from, &to, &mut |_, value| match get(value) {
        Ok(one) => {
            found.push(one);
            ControlFlow::Continue(())
        }
        Err(error) => {
            bad = Some(error);
            ControlFlow::Break(())
        }
    })?;
    bad.map_or(Ok(found), Err)
}

/// All sessions that agents wrote of, in no order.
///
/// # Errors
/// When the log cannot be read, or is damaged.
pub fn sessions(kv: &dyn Kv) -> Result<Vec<SaidSession>> {
    all(kv, b's', &get_session)
}

/// All prompts, in no order.
///
/// # Errors
/// When the log cannot be read, or is damaged.
pub fn prompts(kv: &dyn Kv) -> Result<Vec<Prompt>> {
    all(kv, b'p', &get_prompt)
}

/// All tool calls, in no order.
///
/// # Errors
/// When the log cannot be read, or is damaged.
pub fn calls(kv: &dyn Kv) -> Result<Vec<Call>> {
    all(kv, b'c', &get_call)
}

#[cfg(test)]
mod tests {
    use super::super::Sync;
    use super::super::mem::MemKv;
    use super::*;

    #[test]
    fn what_was_said_reads_back() {
        let (agent, session) = ("codex".to_owned(), "s1".to_owned());
        let said = SaidSession { version: "1".into(), model: "m".into(), cwd: b"/x".to_vec(), agent, session };
        let prompt = Prompt {
            agent: "codex".into(),
            session: "s1".into(),
            id: "p".into(),
            at: Some(Time::new(3, 4)),
            cwd: b"/\xff".to_vec(),
            text: "grün".into(),
        };
        let acts = [
            Act::Other,
            Act::Command(b"ls\xff".to_vec()),
            Act::Write { path: b"a".to_vec(), hash: [7; 32], len: 9 },
            Act::Edit { path: b"a".to_vec(), new: b"text".to_vec() },
            Act::Read { path: b"b".to_vec() },
        ];
        let calls: Vec<Call> = acts
            .into_iter()
            .enumerate()
            .map(|(n, act)| Call {
                agent: "codex".into(),
                session: "s1".into(),
                id: format!("c{n}"),
                prompt: (n > 0).then(|| "p".into()),
                at: (n > 1).then(|| Time::new(5, 6)),
                cwd: b"/x".to_vec(),
                tool: "shell".into(),
                act,
                done: (n > 2).then(|| Time::new(7, 8)),
                failed: [None, Some(true), Some(false)].get(n % 3).copied().flatten(),
            })
            .collect();
        let mut batch = Batch::new();
        put_session(&mut batch, &said);
        put_prompt(&mut batch, &prompt);
        calls.iter().for_each(|call| put_call(&mut batch, call));
        let kv = MemKv::new();
        kv.commit(&batch, Sync::No).unwrap();
        assert_eq!((sessions(&kv).unwrap(), prompts(&kv).unwrap()), (vec![said], vec![prompt]));
        let mut found = super::calls(&kv).unwrap();
        found.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(found, calls);
        assert_eq!(call(&kv, "codex", "s1", "c3").unwrap().as_ref(), calls.get(3));
        assert_eq!(call(&kv, "codex", "s2", "c3").unwrap(), None);
        for (n, call) in calls.iter().enumerate() {
            let mut batch = Batch::new();
            put_call(&mut batch, call);
            let value = kv.get(Table::Meta, &keys::said(b'c', "codex", "s1", &format!("c{n}"))).unwrap().unwrap();
            for len in 0..value.len() {
                assert!(get_call(&value[..len]).is_err());
            }
        }
    }
}
