//! Who wrote the lines that differ between two states, as a record of Agent Trace 0.1.0 (JSON). Pure.
//!
//! A conversation is a session together with what the user had asked for. It has no address on the web, so its `url` is a name: what is behind it, `regentfs`
//! answers.

use serde_json::{Map, Value, json};

use super::authors::{Authors, Session};
use super::lines::FileLines;
use crate::query::steps::StepId;
use crate::types::rfc3339::format;
use crate::types::{ActorId, Time};

const VERSION: &str = "0.1.0";
/// The most that a model's name may have, characters.
const MODEL: usize = 250;

/// What a record is about.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// When it is made.
    pub now: Time,
    /// The commit that has these lines.
    pub revision: Option<String>,
    /// The states, as people name them.
    pub from: String,
    pub to: String,
}

/// Lines of one file by the same author for the same reason.
struct Talk {
    session: Option<ActorId>,
    prompt: Option<String>,
    steps: Vec<StepId>,
    ranges: Vec<(u64, u64)>,
}

/// The record of these files.
pub fn record(authors: &Authors, about: &About, files: &[FileLines]) -> Value {
    let mut sessions: Vec<ActorId> = Vec::new();
    let files: Vec<Value> = files
        .iter()
        .map(|file| {
            let talks: Vec<Value> = talks(authors, file)
                .into_iter()
                .map(|talk| {
                    let known = talk.session.map(|id| {
                        if !sessions.contains(&id) {
                            sessions.push(id);
                        }
                        authors.session(id)
                    });
                    conversation(&authors.store, known.as_ref(), &talk)
                })
                .collect();
            json!({ "path": String::from_utf8_lossy(file.path.as_bytes()), "conversations": talks })
        })
        .collect();
    let sessions: Map<String, Value> = sessions
        .into_iter()
        .map(|id| {
            let s = authors.session(id);
            let value = json!({ "by": s.by, "agent": s.agent, "version": s.version, "model": s.model, "name": s.name });
            (s.id, value)
        })
        .collect();
    let own = json!({ "store": authors.store, "from": about.from, "to": about.to, "sessions": sessions });
    let mut record = json!({
        "version": VERSION,
        "id": "",
        "timestamp": format(about.now),
        "tool": { "name": "regentfs", "version": env!("CARGO_PKG_VERSION") },
        "files": files,
        "metadata": { "dev.regentfs": own },
    });
    if let Some(revision) = &about.revision {
        record["vcs"] = json!({ "type": "git", "revision": revision });
    }
    record["id"] = uuid(record.to_string().as_bytes()).into();
    record
}

/// Of a text, a UUID of version 8 (RFC 9562).
fn uuid(text: &[u8]) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(blake3::hash(text).as_bytes().split_at(16).0);
    let digits = crate::types::hex(&bytes);
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
    format!("{}-{}-8{}-a{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32))
}

fn talks(authors: &Authors, file: &FileLines) -> Vec<Talk> {
    let mut talks: Vec<Talk> = Vec::new();
    for run in &file.runs {
        let of = authors.of(&run.wrote);
        let session = of.map(|(_, session)| session);
        let prompt = of.and_then(|(step, _)| authors.prompt(step)).map(|prompt| prompt.id.clone());
        let at = talks.iter().position(|talk| talk.session == session && talk.prompt == prompt).unwrap_or_else(|| {
            talks.push(Talk { session, prompt, steps: Vec::new(), ranges: Vec::new() });
            talks.len() - 1
        });
        let Some(talk) = talks.get_mut(at) else { continue };
        if let Some((step, _)) = of.filter(|(step, _)| !talk.steps.contains(step)) {
            talk.steps.push(step);
        }
        match talk.ranges.last_mut().filter(|(_, last)| *last + 1 == run.first) {
            Some((_, last)) => *last = run.last,
            None => talk.ranges.push((run.first, run.last)),
        }
    }
    talks
}

fn conversation(store: &str, session: Option<&Session>, talk: &Talk) -> Value {
    let kind = match session.map(|session| session.by) {
        Some("agent") => "ai",
        Some("human") => "human",
        // What a script wrote can be anybody's.
        _ => "unknown",
    };
    let mut contributor = json!({ "type": kind });
    if let Some(model) = session.and_then(|s| s.model.as_deref()).map(model).filter(|m| m.chars().count() <= MODEL) {
        contributor["model_id"] = model.into();
    }
    let name = |kind: &str, id: &str| format!("regentfs://{store}/{kind}/{}", escaped(id));
    let mut value = Map::new();
    value.extend(session.map(|session| ("url".to_owned(), name("session", &session.id).into())));
    value.insert("contributor".to_owned(), contributor);
    let ranges = talk.ranges.iter().map(|(first, last)| json!({ "start_line": first, "end_line": last }));
    value.insert("ranges".to_owned(), ranges.collect());
    let prompt = talk.prompt.iter().map(|id| json!({ "type": "prompt", "url": name("prompt", id) }));
    let steps = talk.steps.iter().map(|id| json!({ "type": "step", "url": name("step", &id.to_string()) }));
    let related: Vec<Value> = prompt.chain(steps).collect();
    if !related.is_empty() {
        value.insert("related".to_owned(), related.into());
    }
    value.into()
}

/// `provider/model`, as models.dev writes it, where the provider is known.
fn model(name: &str) -> String {
    let provider = match name {
        _ if name.contains('/') => None,
        _ if name.starts_with("claude") => Some("anthropic"),
        _ if ["gpt", "o1", "o3", "o4", "codex"].iter().any(|known| name.starts_with(known)) => Some("openai"),
        _ if name.starts_with("gemini") => Some("google"),
        _ if name.starts_with("grok") => Some("xai"),
        _ => None,
    };
    provider.map_or_else(|| name.to_owned(), |provider| format!("{provider}/{name}"))
}

/// As a part of an address.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_and_names() {
        for (name, expected) in [
            ("claude-opus-4-5-20251101", "anthropic/claude-opus-4-5-20251101"),
            ("gpt-5-codex", "openai/gpt-5-codex"),
            ("gemini-2.5-pro", "google/gemini-2.5-pro"),
            ("mistral/devstral", "mistral/devstral"),
            ("qwen3", "qwen3"),
        ] {
            assert_eq!(model(name), expected);
        }
        assert_eq!(escaped("a b/\u{fc}"), "a%20b%2F%C3%BC");
        let id = uuid(b"x");
        let parts: Vec<_> = id.split('-').map(str::len).collect();
        assert!(parts == [8, 4, 4, 4, 12] && id.get(14..15) == Some("8") && id.get(19..20) == Some("a"), "{id}");
        assert_ne!(uuid(b"x"), uuid(b"y"));
    }

    #[test]
    fn what_nobody_is_known_for_is_unknown() {
        let talk = Talk { session: None, prompt: None, steps: Vec::new(), ranges: vec![(2, 3)] };
        let value = conversation("store", None, &talk);
        assert_eq!(
            value,
            json!({ "contributor": { "type": "unknown" }, "ranges": [{ "start_line": 2, "end_line": 3 }] })
        );
        let session = |by| Session { id: "s1".into(), by, model: Some("gpt-5".into()), ..Session::default() };
        for (by, expected) in [("agent", "ai"), ("human", "human"), ("script", "unknown")] {
            let value = conversation("store", Some(&session(by)), &talk);
            assert_eq!(value["contributor"], json!({ "type": expected, "model_id": "openai/gpt-5" }));
            assert_eq!(value["url"], "regentfs://store/session/s1");
        }
        let long = Session { model: Some("m".repeat(251)), ..session("agent") };
        assert_eq!(conversation("store", Some(&long), &talk)["contributor"], json!({ "type": "ai" }));
    }
}
