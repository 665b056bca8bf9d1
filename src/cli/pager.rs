//! Long output on a terminal goes through a pager, as git does it: $REGENTFS_PAGER, $PAGER or `less -FRX`, once it is longer than the screen.

use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::progress;

/// `--no-pager` was given.
static OFF: AtomicBool = AtomicBool::new(false);
/// What is to be said on stderr when the pager has ended; `None` while none runs.
static LATER: Mutex<Option<Vec<String>>> = Mutex::new(None);

/// No pager in this process.
pub fn turn_off() {
    OFF.store(true, Ordering::Relaxed);
}

/// Says something on stderr: now, or when it does not disturb a pager.
pub fn remark(text: &str) {
    match &mut *LATER.lock() {
        Some(list) => list.push(text.to_owned()),
        None => {
            progress::clear();
            eprintln!("{text}");
        }
    }
}

/// Standard output, held back until it is more than a screen. Then it goes to the pager.
pub struct Paged {
    state: State,
    command: String,
    rows: usize,
    columns: usize,
}

enum State {
    /// Less than a screen so far.
    Held(Vec<u8>),
    Running(Child, Option<io::BufWriter<ChildStdin>>),
    /// There is no pager, or it could not be started.
    Direct(io::BufWriter<io::Stdout>),
}

impl Paged {
    /// `None` where output goes out as it comes: there is no terminal, or no pager is wanted.
    pub fn new() -> Option<Paged> {
        let stdout = io::stdout();
        if OFF.load(Ordering::Relaxed) || !stdout.is_terminal() || !io::stdin().is_terminal() {
            return None;
        }
        let command = wanted(|name| std::env::var(name).ok())?;
        let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
        let (rows, columns) = (usize::from(size.ws_row), usize::from(size.ws_col));
        (rows > 1 && columns > 0 && is_there(&command)).then(|| Paged {
            state: State::Held(Vec::new()),
            command,
            rows,
            columns,
        })
    }

    fn start(&mut self) -> io::Result<()> {
        let State::Held(held) = &mut self.state else { return Ok(()) };
        let held = std::mem::take(held);
        progress::clear();
        let mut command = Command::new("sh");
        command.arg("-c").arg(&self.command).stdin(Stdio::piped());
        // What git sets as well: quit if it fits, show colours, leave the screen as it is.
        for (name, value) in [("LESS", "FRX"), ("LV", "-c")] {
            if std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
        // Ctrl-C is the pager's: it must not lose its writer, nor the terminal its reader.
        let _ = signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::new(AtomicBool::new(false)));
        self.state = match command.spawn() {
            Ok(mut child) => {
                *LATER.lock() = Some(Vec::new());
                let stdin = child.stdin.take().map(|stdin| io::BufWriter::with_capacity(64 << 10, stdin));
                State::Running(child, stdin)
            }
            Err(_) => State::Direct(io::BufWriter::new(io::stdout())),
        };
        self.write_all(&held)
    }
}

impl Write for Paged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.state {
            State::Held(held) => {
                held.extend_from_slice(bytes);
                if lines(held, self.columns) >= self.rows {
                    self.start()?;
                }
                Ok(bytes.len())
            }
            State::Running(_, Some(stdin)) => stdin.write(bytes),
            State::Running(_, None) => Ok(bytes.len()),
            State::Direct(out) => out.write(bytes),
        }
    }

    /// What is held is all there was: it needs no pager.
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.state {
            State::Held(held) => {
                let held = std::mem::take(held);
                progress::clear();
                self.state = State::Direct(io::BufWriter::new(io::stdout()));
                self.write_all(&held)?;
                self.flush()
            }
            State::Running(_, Some(stdin)) => stdin.flush(),
            State::Running(_, None) => Ok(()),
            State::Direct(out) => out.flush(),
        }
    }
}

impl Drop for Paged {
    fn drop(&mut self) {
        match &mut self.state {
            State::Held(_) => drop(self.flush()),
            State::Running(child, stdin) => {
                drop(stdin.take());
                let _ = child.wait();
                for text in LATER.lock().take().unwrap_or_default() {
                    eprintln!("{text}");
                }
            }
            State::Direct(_) => {}
        }
    }
}

/// The command that the environment names; `None` when it says that there is to be none.
fn wanted(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let command = variable("REGENTFS_PAGER").or_else(|| variable("PAGER")).unwrap_or_else(|| "less -FRX".to_owned());
    let command = command.trim();
    let dumb = variable("TERM").is_none_or(|term| term == "dumb");
    (!command.is_empty() && command != "cat" && !dumb).then(|| command.to_owned())
}

/// Whether the program is there; a command that only a shell understands is believed.
fn is_there(command: &str) -> bool {
    let program = command.split_whitespace().next().unwrap_or_default();
    if program.is_empty() || program.contains(|c: char| !(c.is_alphanumeric() || "-_./+".contains(c))) {
        return true;
    }
    let runs = |path: &std::path::Path| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return runs(program.as_ref());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| runs(&dir.join(program)))
}

/// Lines on a terminal that is so wide; what colours text takes no room.
fn lines(text: &[u8], columns: usize) -> usize {
    text.split(|&b| b == b'\n').map(|line| width(line).div_ceil(columns).max(1)).sum::<usize>().saturating_sub(1)
}

fn width(line: &[u8]) -> usize {
    let (mut width, mut in_escape) = (0, false);
    for &byte in line {
        match byte {
            0x1b => in_escape = true,
            b'm' if in_escape => in_escape = false,
            _ if in_escape => {}
            b'\t' => width = (width / 8 + 1) * 8,
            // The later bytes of a character.
            0x80..=0xbf => {}
            _ => width += 1,
        }
    }
    width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_decides() {
        let asked = |set: &'static [(&str, &str)]| {
            wanted(move |name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        assert_eq!(asked(&[("TERM", "xterm")]).as_deref(), Some("less -FRX"));
        assert_eq!(asked(&[("TERM", "xterm"), ("PAGER", "more")]).as_deref(), Some("more"));
        assert_eq!(asked(&[("TERM", "xterm"), ("PAGER", "more"), ("REGENTFS_PAGER", "w")]).as_deref(), Some("w"));
        assert_eq!(asked(&[("TERM", "xterm"), ("PAGER", "more"), ("REGENTFS_PAGER", "")]), None);
        assert_eq!(asked(&[("TERM", "xterm"), ("PAGER", "cat")]), None);
        assert_eq!(asked(&[("TERM", "dumb"), ("PAGER", "more")]), None);
        assert_eq!(asked(&[]), None);
    }

    #[test]
    fn programs_are_looked_for() {
        assert!(is_there("sh -c x") && is_there("/bin/sh") && is_there("$MY_PAGER"));
        assert!(!is_there("no-such-pager -R") && !is_there("/no/such"));
    }

    #[test]
    fn lines_are_those_of_the_terminal() {
        assert_eq!(lines(b"", 80), 0);
        assert_eq!(lines(b"a\nb\n", 80), 2);
        assert_eq!(lines(&[&[b'x'; 81][..], b"\n"].concat(), 80), 2);
        assert_eq!(lines(&[b"\x1b[32m", &[b'x'; 80][..], b"\x1b[0m\n"].concat(), 80), 1);
        assert_eq!(width("grün".as_bytes()), 4);
        assert_eq!(width(b"a\tb"), 9);
    }
}
