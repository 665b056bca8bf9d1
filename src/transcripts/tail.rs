//! One transcript, read as it grows: lines by inode and offset, compressed ones as far as they can be decoded, documents when they change.
//!
//! It knows no agent's records; those are given to a [`Reader`].

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::mem;
use std::os::unix::fs::FileExt;
use std::path::Path;

use ruzstd::decoding::StreamingDecoder;

use super::files::{self, BUDGET, LONGEST, Stamp};
use super::out::{Out, Place, Reader};
use super::{Item, Shape, Source, claude, codex, copilot, cursor, gemini, json, opencode};
use crate::types::Time;

/// So many bytes before the offset are looked at again, to notice that a file was written anew under the same inode.
const ANCHOR: usize = 64;
const CHUNK: usize = 256 << 10;
/// What a compressed transcript may unfold to.
const MOST_UNFOLDED: u64 = 4 << 30;

/// One transcript, read incrementally.
pub struct Tail {
    source: Source,
    content: Content,
    out: Out,
    behind: bool,
}

enum Content {
    Lines(Lines, Box<dyn Reader>),
    Packed(Packed, Box<dyn Reader>),
    Whole(Option<Stamp>, Box<dyn Reader>),
    Database(opencode::Database),
    Folder(opencode::Folder),
}

impl Tail {
    pub fn new(source: Source) -> Tail {
        let content = match (source.shape, reader(&source)) {
            (Shape::Lines, reader) => Content::Lines(Lines::default(), reader),
            (Shape::Packed, reader) => Content::Packed(Packed::default(), reader),
            (Shape::Whole, reader) => Content::Whole(None, reader),
            (Shape::Database, _) => Content::Database(opencode::Database::new(source.since)),
            (Shape::Folder, _) => Content::Folder(opencode::Folder::default()),
        };
        Tail { source, content, out: Out::default(), behind: false }
    }

    /// What was added since the last call, of at most 16 MiB that are looked at. Content never makes it fail: unknown records are skipped and
    /// counted. After a file was replaced or cut it is read from its beginning, and what was given already is not given again.
    ///
    /// # Errors
    ///
    /// Those of opening and reading the file: `NotFound` while it is not there, `InvalidInput` for what is no regular file, ELOOP for a
    /// symbolic link. The next call tries again.
    pub fn read(&mut self, now: Time) -> io::Result<Vec<Item>> {
        let Tail { source, content, out, .. } = self;
        let result = match content {
            Content::Lines(lines, reader) => lines.read(&source.path, now, &mut **reader, out),
            Content::Packed(packed, reader) => packed.read(&source.path, &mut **reader, out),
            Content::Whole(before, reader) => whole(&source.path, before, &mut **reader, out).map(|()| false),
            Content::Database(database) => database.read(&source.path, now, out),
            Content::Folder(folder) => folder.read(&source.path, out),
        };
        let items = self.out.take();
        match result {
            Ok(behind) => self.behind = behind,
            Err(e) if items.is_empty() => return Err(e),
            // It comes again, if it is there to stay.
            Err(_) => self.behind = false,
        }
        Ok(items)
    }

    /// Whether the last call stopped at its limit, so that there may be more to read at once.
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// Records skipped because they are not understood.
    pub fn odd(&self) -> u64 {
        self.out.odd
    }

    pub fn source(&self) -> &Source {
        &self.source
    }
}

fn reader(source: &Source) -> Box<dyn Reader> {
    match source.agent {
        "claude-code" => Box::new(claude::Claude::new(&source.path)),
        "codex" => Box::new(codex::Codex::new(&source.path)),
        "gemini-cli" => Box::new(gemini::Gemini::new(&source.path)),
        "cursor-cli" => Box::new(cursor::Cursor::new(&source.path)),
        _ => Box::new(copilot::Copilot::new(&source.path)),
    }
}

/// Hands one line to a reader.
fn line(bytes: &[u8], place: &Place, reader: &mut dyn Reader, out: &mut Out) {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    // After a power failure a file may have zeros where data was to be.
    let is_blank = |byte: &&u8| byte.is_ascii_whitespace() || **byte == 0;
    let blanks = bytes.iter().take_while(is_blank).count();
    let bytes = bytes.get(blanks..).unwrap_or_default();
    if bytes.is_empty() {
        return;
    }
    match json::parse(bytes) {
        Some(record) if record.is_object() => reader.record(&record, place, out),
        _ => out.odd += 1,
    }
}

/// Puts lines together from chunks.
#[derive(Default)]
struct Split {
    partial: Vec<u8>,
    /// The line is too long; its end is awaited.
    skipping: bool,
    /// Lines that have ended.
    lines: u64,
}

impl Split {
    /// `each` gets every line that ends in the chunk: its number, its bytes, and where in the chunk it ends.
    fn feed(&mut self, chunk: &[u8], out: &mut Out, mut each: impl FnMut(u64, &[u8], usize, &mut Out)) {
        let mut from = 0;
        while let Some(length) = chunk.get(from..).and_then(|rest| rest.iter().position(|&byte| byte == b'\n')) {
            let part = chunk.get(from..from + length).unwrap_or_default();
            from += length + 1;
            self.lines += 1;
            if mem::take(&mut self.skipping) {
                out.odd += 1;
            } else if self.partial.is_empty() {
                each(self.lines, part, from, out);
            } else if self.extend(part) {
                let whole = mem::take(&mut self.partial);
                each(self.lines, &whole, from, out);
            } else {
                self.skipping = false;
                out.odd += 1;
            }
        }
        let rest = chunk.get(from..).unwrap_or_default();
        if !self.skipping {
            self.extend(rest);
        }
    }

    /// Adds to the partial line; gives it up if it gets too long.
    fn extend(&mut self, part: &[u8]) -> bool {
        self.skipping = self.partial.len() + part.len() > LONGEST;
        if self.skipping {
            self.partial = Vec::new();
        } else {
            self.partial.extend_from_slice(part);
        }
        !self.skipping
    }
}

/// A file of lines that is appended to.
#[derive(Default)]
struct Lines {
    before: Option<Stamp>,
    offset: u64,
    /// The bytes before the offset.
    anchor: Vec<u8>,
    split: Split,
    /// How large the file was when it was seen for the first time: what is beyond was appended while it was being watched.
    there: u64,
}

impl Lines {
    fn read(&mut self, path: &Path, now: Time, reader: &mut dyn Reader, out: &mut Out) -> io::Result<bool> {
        let (file, stamp) = files::open(path)?;
        if self.before == Some(stamp) && self.offset >= stamp.size {
            return Ok(false);
        }
        let is_same = self.before.is_some_and(|before| before.file == stamp.file);
        if !is_same || stamp.size < self.offset || !self.is_anchored(&file)? {
            *self = Lines { there: stamp.size, ..Lines::default() };
            reader.restart();
        }
        self.before = Some(stamp);
        let mut buffer = vec![0; CHUNK];
        let end = self.offset.saturating_add(BUDGET);
        while self.offset < end {
            let read = match file.read_at(&mut buffer, self.offset) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            let Some(chunk) = buffer.get(..read).filter(|chunk| !chunk.is_empty()) else { return Ok(false) };
            let (offset, there) = (self.offset, self.there);
            self.split.feed(chunk, out, |number, bytes, end, out| {
                let appended = (offset + end as u64 > there).then_some(now);
                line(bytes, &Place { line: number, appended }, reader, out);
            });
            self.offset += read as u64;
            self.anchor.extend_from_slice(chunk.get(chunk.len().saturating_sub(ANCHOR)..).unwrap_or_default());
            let surplus = self.anchor.len().saturating_sub(ANCHOR);
            self.anchor.drain(..surplus);
        }
        Ok(true)
    }

    /// Whether what was read last is still there.
    fn is_anchored(&self, file: &File) -> io::Result<bool> {
        let mut bytes = vec![0; self.anchor.len()];
        let from = self.offset.saturating_sub(self.anchor.len() as u64);
        match file.read_exact_at(&mut bytes, from) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            read => read.map(|()| bytes == self.anchor),
        }
    }
}

/// A compressed file of lines. It is written once; what changed is another file.
#[derive(Default)]
struct Packed {
    before: Option<Stamp>,
    /// While there may be more to come.
    decoder: Option<Box<Decoder>>,
    split: Split,
    unfolded: u64,
}

type Decoder = StreamingDecoder<BufReader<File>, ruzstd::decoding::FrameDecoder>;

impl Packed {
    fn read(&mut self, path: &Path, reader: &mut dyn Reader, out: &mut Out) -> io::Result<bool> {
        let (file, stamp) = files::open(path)?;
        if self.before != Some(stamp) {
            reader.restart();
            let decoder = StreamingDecoder::new(BufReader::new(file)).ok().map(Box::new);
            out.odd += u64::from(decoder.is_none());
            *self = Packed { before: Some(stamp), decoder, ..Packed::default() };
        }
        let mut buffer = vec![0; CHUNK];
        let end = self.unfolded.saturating_add(BUDGET);
        while let Some(decoder) = &mut self.decoder {
            if self.unfolded >= end {
                return Ok(true);
            }
            let give = |number, bytes: &[u8], out: &mut Out| {
                line(bytes, &Place { line: number, appended: None }, &mut *reader, out);
            };
            match decoder.read(&mut buffer) {
                Ok(0) => {
                    // Nothing will be added to a last line without an end.
                    let rest = mem::take(&mut self.split.partial);
                    let (number, mut give) = (self.split.lines + 1, give);
                    give(number, &rest, out);
                    self.decoder = None;
                }
                Ok(read) if self.unfolded < MOST_UNFOLDED => {
                    let mut give = give;
                    let chunk = buffer.get(..read).unwrap_or_default();
                    self.split.feed(chunk, out, |number, bytes, _, out| give(number, bytes, out));
                    self.unfolded += read as u64;
                }
                // It ends too early, is damaged or out of all proportion.
                _ => {
                    out.odd += 1;
                    self.decoder = None;
                }
            }
        }
        Ok(false)
    }
}

/// Reads a document if it is not as before.
fn whole(path: &Path, before: &mut Option<Stamp>, reader: &mut dyn Reader, out: &mut Out) -> io::Result<()> {
    let (_, stamp) = files::open(path)?;
    if *before == Some(stamp) {
        return Ok(());
    }
    match files::read(path, LONGEST) {
        Ok(bytes) => {
            reader.restart();
            line(&bytes, &Place { line: 1, appended: None }, reader, out);
        }
        Err(e) if e.kind() == io::ErrorKind::FileTooLarge => out.odd += 1,
        Err(e) => return Err(e),
    }
    *before = Some(stamp);
    Ok(())
}
