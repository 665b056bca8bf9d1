//! A scripted stand-in for a model's API (Anthropic Messages, streamed or not) on loopback, for agents that run unmodified.
//!
//! Which script a request belongs to is said by the prompt: the last text of the user's with `[[NAME]]` in it. How far it is, by the tool calls behind
//! that: so several conversations go on at once, and a request that is made again gets the same answer. It knows nothing of regentfs.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};

/// The name under which the model of these tests is asked for.
pub const NAME: &str = "claude-sonnet-4-5-20250929";
/// How long anything here waits for the test, or the test for it.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the model does in a turn.
#[derive(Clone)]
pub enum Say {
    Text(String),
    Tool(&'static str, Value),
}

/// One answer of the model.
#[derive(Clone)]
pub struct Turn {
    pub says: Vec<Say>,
    stop: Option<Stop>,
}

impl Turn {
    pub fn tool(name: &'static str, input: Value) -> Turn {
        Turn { says: vec![Say::Tool(name, input)], stop: None }
    }

    pub fn text(text: &str) -> Turn {
        Turn { says: vec![Say::Text(text.to_owned())], stop: None }
    }

    /// Both at once: tool calls that run in parallel.
    pub fn and(mut self, other: Turn) -> Turn {
        self.says.extend(other.says);
        self
    }

    /// The model does not answer before the test says so.
    pub fn after(mut self, stop: &Stop) -> Turn {
        self.stop = Some(stop.clone());
        self
    }
}

/// A place in a conversation at which the test does something.
#[derive(Clone, Default)]
pub struct Stop(Arc<(Mutex<(bool, bool)>, Condvar)>);

impl Stop {
    fn until(&self, what: &str, set: impl Fn(&mut (bool, bool)), ready: impl Fn(&(bool, bool)) -> bool) {
        let (state, news) = &*self.0;
        let mut guard = state.lock().expect("nobody panics with it");
        set(&mut guard);
        news.notify_all();
        let (guard, limit) =
            news.wait_timeout_while(guard, PATIENCE, |state| !ready(state)).expect("nobody panics with it");
        drop(guard);
        assert!(!limit.timed_out(), "waited {PATIENCE:?} for {what}");
    }

    fn reach(&self) {
        self.until("the test to go on", |state| state.0 = true, |state| state.1);
    }

    /// Waits until the conversation is there.
    pub fn wait(&self) {
        self.until("the agent to come to its next turn", |_| (), |state| state.0);
    }

    pub fn go_on(&self) {
        self.until("nothing", |state| state.1 = true, |_| true);
    }
}

#[derive(Default)]
struct State {
    scripts: Mutex<HashMap<String, Vec<Turn>>>,
    /// How long the model takes to answer.
    thinking: Duration,
    ended: AtomicBool,
}

/// See the module. Ends when dropped.
pub struct Model {
    port: u16,
    state: Arc<State>,
}

impl Model {
    pub fn new(thinking: Duration) -> Model {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen on loopback");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State { thinking, ..State::default() });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.ended.load(Ordering::Acquire) {
                    return;
                }
                let shared = shared.clone();
                std::thread::spawn(move || {
                    // Agents that are killed close their connections.
                    let _ = serve(&stream, &shared);
                });
            }
        });
        Model { port, state }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What is to happen for prompts with `[[name]]`.
    pub fn script(&self, name: &str, turns: Vec<Turn>) {
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric()), "part of the calls' ids: {name}");
        lock(&self.state.scripts).insert(name.to_owned(), turns);
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Release);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|failed| failed.into_inner())
}

/// The id of a call: of which script, in which turn, and which one of that turn.
pub fn call_id(script: &str, turn: usize, nth: usize) -> String {
    format!("toolu_{script}_{turn}_{nth}")
}

/// The script of a call.
pub fn script_of(call: &str) -> Option<&str> {
    call.strip_prefix("toolu_")?.split('_').next()
}

/// Answers the requests of one connection.
fn serve(stream: &TcpStream, state: &State) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let mut words = first.split_whitespace();
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        let answer = match (method, path) {
            ("POST", "/v1/messages") => message(&body, state),
            ("POST", "/v1/messages/count_tokens") => json!({"input_tokens": 10}),
            _ => json!({"data": []}),
        };
        if path == "/v1/messages" && body["stream"] == true {
            return stream_events(stream, &answer);
        }
        let text = if method == "HEAD" { String::new() } else { answer.to_string() };
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", text.len());
        let mut out = stream;
        out.write_all((head + &text).as_bytes())?;
    }
}

/// The blocks of a message; one that is only a text is one block.
fn blocks(message: &Value) -> Vec<Value> {
    match &message["content"] {
        Value::String(text) => vec![json!({"type": "text", "text": text})],
        Value::Array(blocks) => blocks.clone(),
        _ => Vec::new(),
    }
}

/// The script that the conversation is about, and where in the messages its prompt is.
fn wanted<'s>(messages: &[Value], scripts: &'s HashMap<String, Vec<Turn>>) -> Option<(usize, &'s String)> {
    messages.iter().enumerate().rev().filter(|(_, message)| message["role"] == "user").find_map(|(at, message)| {
        let blocks = blocks(message);
        let texts: Vec<&str> = blocks.iter().filter_map(|block| block["text"].as_str()).collect();
        let name = scripts.keys().find(|name| texts.iter().any(|text| text.contains(&format!("[[{name}]]"))))?;
        Some((at, name))
    })
}

fn message(body: &Value, state: &State) -> Value {
    let messages = body["messages"].as_array().cloned().unwrap_or_default();
    // Without tools it is asked for titles and the like.
    let has_tools = body["tools"].as_array().is_some_and(|tools| !tools.is_empty());
    let (mut content, mut why) = (Vec::new(), "end_turn");
    let scripts = lock(&state.scripts).clone();
    if let Some((at, name)) = wanted(&messages, &scripts).filter(|_| has_tools) {
        let prefix = format!("toolu_{name}_");
        let calls = messages.iter().skip(at).flat_map(blocks).filter(|block| block["type"] == "tool_use");
        let turns =
            calls.filter_map(|call| call["id"].as_str()?.strip_prefix(&prefix)?.split('_').next()?.parse().ok());
        let turn = turns.max().map_or(0, |last: usize| last + 1);
        std::thread::sleep(state.thinking);
        if let Some(Turn { says, stop }) = scripts[name].get(turn) {
            stop.iter().for_each(Stop::reach);
            for (nth, say) in says.iter().enumerate() {
                content.push(match say {
                    Say::Text(text) => json!({"type": "text", "text": text}),
                    Say::Tool(tool, input) => {
                        why = "tool_use";
                        json!({"type": "tool_use", "id": call_id(name, turn, nth), "name": tool, "input": input})
                    }
                });
            }
        }
    }
    if content.is_empty() {
        content.push(json!({"type": "text", "text": "Done."}));
    }
    json!({
        "id": format!("msg_{}", messages.len()), "type": "message", "role": "assistant", "model": body["model"], "content": content,
        "stop_reason": why, "stop_sequence": null, "usage": {"input_tokens": 10, "output_tokens": 10},
    })
}

/// A whole answer as the events of a stream.
fn stream_events(mut stream: &TcpStream, answer: &Value) -> std::io::Result<()> {
    let mut begin = answer.clone();
    (begin["content"], begin["stop_reason"]) = (json!([]), Value::Null);
    let mut events = vec![json!({"type": "message_start", "message": begin})];
    for (index, block) in answer["content"].as_array().into_iter().flatten().enumerate() {
        let (mut empty, delta) = (
            block.clone(),
            match block["text"].as_str() {
                Some(text) => json!({"type": "text_delta", "text": text}),
                None => json!({"type": "input_json_delta", "partial_json": block["input"].to_string()}),
            },
        );
        let field = if block["text"].is_string() { "text" } else { "input" };
        empty[field] = if field == "text" { json!("") } else { json!({}) };
        events.push(json!({"type": "content_block_start", "index": index, "content_block": empty}));
        events.push(json!({"type": "content_block_delta", "index": index, "delta": delta}));
        events.push(json!({"type": "content_block_stop", "index": index}));
    }
    let delta = json!({"stop_reason": answer["stop_reason"], "stop_sequence": null});
    events.push(json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 10}}));
    events.push(json!({"type": "message_stop"}));
    let mut text =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\nconnection: close\r\n\r\n"
            .to_owned();
    for event in events {
        text += &format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default());
    }
    stream.write_all(text.as_bytes())?;
    stream.flush()
}
