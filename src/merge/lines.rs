//! Texts as lines, and what differs between two of them. The only file here that names the diff crate; knows nothing of merging.

use imara_diff::{Algorithm, Diff, InternedInput, Interner, NoSliderHeuristic, sources};

pub use imara_diff::{Hunk, Token};

/// A way to compare two texts: [`diff`], or another one in tests.
pub type Differ<'d> = dyn FnMut(&[Token], &[Token]) -> Vec<Hunk> + 'd;

/// The work of about a second.
const MOST_STEPS: u64 = 1 << 30;

/// The three texts; the same token stands for the same line in all of them.
pub struct Texts<'a> {
    interner: Interner<&'a [u8]>,
    pub base: Vec<Token>,
    pub ours: Vec<Token>,
    pub theirs: Vec<Token>,
}

impl<'a> Texts<'a> {
    pub fn new(base: &'a [u8], ours: &'a [u8], theirs: &'a [u8]) -> Texts<'a> {
        let mut interner = Interner::new(0);
        let mut tokens = |text: &'a [u8]| split(text).map(|line| interner.intern(line)).collect();
        let (base, ours, theirs) = (tokens(base), tokens(ours), tokens(theirs));
        Texts { interner, base, ours, theirs }
    }

    /// The bytes of a line, with its end.
    pub fn line(&self, token: Token) -> &'a [u8] {
        self.interner[token]
    }
}

/// The lines of a text, each with its end.
pub fn split(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    sources::byte_lines(text)
}

/// [`diff`] of two texts.
pub fn hunks(old: &[u8], new: &[u8]) -> Vec<Hunk> {
    let mut interner = Interner::new(0);
    let mut tokens = |text| split(text).map(|line| interner.intern(line)).collect::<Vec<_>>();
    let (old, new) = (tokens(old), tokens(new));
    diff(&old, &new)
}

/// How many lines a text has; the last one needs no end.
pub fn count(text: &[u8]) -> usize {
    split(text).count()
}

/// The changes that turn `old` into `new`, in order; between two of them there is at least one line that stayed.
///
/// Myers' algorithm, with changes moved down as far as they go and no heuristic: this is what `git merge-file` does by default. It also bounds its
/// search, unlike the histogram algorithm, which is quadratic when every other line was changed. Where even so it would take seconds
/// (see [`steps`]), all between the first and the last difference is one change.
pub fn diff(old: &[Token], new: &[Token]) -> Vec<Hunk> {
    // Tables inside are as large as the largest token, so many small comparisons need small tokens.
    let mut input = InternedInput::<u32>::default();
    input.update_before(old.iter().map(|token| token.0));
    input.update_after(new.iter().map(|token| token.0));
    let (old, new) = (&input.before[..], &input.after[..]);
    let head = alike(old.iter(), new.iter());
    let ((_, old), (_, new)) = (old.split_at(head), new.split_at(head));
    let tail = alike(old.iter().rev(), new.iter().rev());
    let ((old, _), (new, _)) = (old.split_at(old.len() - tail), new.split_at(new.len() - tail));
    if steps(old, new, input.interner.num_tokens() as usize) > MOST_STEPS {
        let lines = |tokens: &[Token]| head as u32..(head + tokens.len()) as u32;
        return vec![Hunk { before: lines(old), after: lines(new) }];
    }
    let mut diff = Diff::compute(Algorithm::Myers, &input);
    diff.postprocess_with_heuristic(&input, NoSliderHeuristic);
    diff.hunks().collect()
}

fn alike<'t>(one: impl Iterator<Item = &'t Token>, other: impl Iterator<Item = &'t Token>) -> usize {
    one.zip(other).take_while(|(a, b)| a == b).count()
}

/// How many steps imara-diff 0.2 takes for lines that are frequent in the other text: from each it looks back to the last line that is there, but
/// rare. Quadratic in texts that consist of few different lines. `kinds`: all tokens are below it.
fn steps(old: &[Token], new: &[Token], kinds: usize) -> u64 {
    look_back(old, &counts(new, kinds)) + look_back(new, &counts(old, kinds))
}

fn counts(tokens: &[Token], kinds: usize) -> Vec<u32> {
    let mut counts = vec![0; kinds];
    for token in tokens {
        if let Some(count) = counts.get_mut(token.0 as usize) {
            *count += 1;
        }
    }
    counts
}

fn look_back(tokens: &[Token], others: &[u32]) -> u64 {
    // What imara-diff takes for frequent: a power of two near the square root.
    let bits = (usize::BITS - tokens.len().leading_zeros()) / 2;
    let frequent = 1_u32 << bits.min(10);
    let (mut steps, mut since) = (0, 0);
    for token in tokens {
        match others.get(token.0 as usize).copied().unwrap_or_default() {
            0 => since += 1,
            n if n < frequent => since = 0,
            _ => {
                steps += since;
                since += 1;
            }
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(numbers: impl Iterator<Item = u32>) -> Vec<Token> {
        numbers.map(Token).collect()
    }

    #[test]
    fn repetitive_texts_are_one_change() {
        // Few different lines, in other orders; no head and no tail alike but for one line each.
        let n = 100_000;
        let few = |factor: u32| [8].into_iter().chain((0..n).map(move |i| i * factor % 65_521 % 7)).chain([9]);
        let (old, new) = (tokens(few(7919)), tokens(few(104_729 % 65_521)));
        let hunks = diff(&old, &new);
        assert_eq!(hunks, [Hunk { before: 2..n + 1, after: 2..n + 1 }]);
        assert_eq!(diff(&old, &old), []);
        // With a rare line here and there it is compared.
        let rare = |text: &[Token]| {
            tokens(text.iter().enumerate().map(|(at, t)| if at % 1000 == 500 { at as u32 } else { t.0 }))
        };
        assert!(diff(&rare(&old), &rare(&new)).len() > 1000);
        // So is one of few changes in a long text.
        let mut near = old.clone();
        near[30_000] = Token(99);
        near.remove(31_000);
        assert_eq!(
            diff(&old, &near),
            [
                Hunk { before: 30_000..30_001, after: 30_000..30_001 },
                Hunk { before: 31_000..31_001, after: 31_000..31_000 }
            ]
        );
    }
}
