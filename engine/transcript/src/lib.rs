//! Tests that read like transcripts: a text of commands, each with what came of it.
//!
//! In: files, and a function that does one command. Out: nothing, or a panic that shows where they differ. Never: what
//! is tested.
//!
//! A line that begins with `>` is a command: a verb, then words and `name=value`. The lines after it, up to an empty one,
//! are what came of it. Lines with `#` are for readers. `WEIR_TRANSCRIPTS=write` writes what comes now: the change is
//! reviewed as a diff.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Set to `write`, transcripts are written instead of compared.
pub const WRITE: &str = "WEIR_TRANSCRIPTS";

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// What is to be done.
    pub verb: String,
    words: Vec<String>,
    options: Vec<(String, String)>,
}

impl Command {
    fn read(line: &str) -> Self {
        let mut parts = line.split_whitespace().map(str::to_owned);
        let verb = parts.next().unwrap_or_default();
        let (mut words, mut options) = (Vec::new(), Vec::new());
        for part in parts {
            match part.split_once('=') {
                Some((name, value)) => options.push((name.to_owned(), value.to_owned())),
                None => words.push(part),
            }
        }
        Self { verb, words, options }
    }

    /// The word at this place.
    ///
    /// # Panics
    /// There are fewer.
    #[must_use]
    pub fn word(&self, at: usize) -> &str {
        self.words.get(at).unwrap_or_else(|| panic!("{self:?}: word {at} is missing"))
    }

    /// All words.
    #[must_use]
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// Whether this word is among them.
    #[must_use]
    pub fn says(&self, word: &str) -> bool {
        self.words.iter().any(|said| said == word)
    }

    /// The value of an option.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The number that an option gives, or this one.
    ///
    /// # Panics
    /// It is no number.
    #[must_use]
    pub fn number<T: FromStr>(&self, name: &str, unless_said: T) -> T {
        match self.option(name) {
            Some(value) => {
                value.parse().unwrap_or_else(|_| panic!("{self:?}: {name} is no number"))
            }
            None => unless_said,
        }
    }
}

/// Goes through every transcript of a directory: `begin` makes what is tested, anew for each, and `run` does a command and
/// says what came of it, in lines.
///
/// # Panics
/// Something else came of a command than is written.
pub fn check<S>(dir: &Path, begin: impl Fn() -> S, run: impl Fn(&mut S, &Command) -> String) {
    let files = std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("listed").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{}: there is no transcript", dir.display());
    for path in paths {
        let before = std::fs::read_to_string(&path).expect("a transcript");
        let after = played(&before, &mut begin(), &run);
        if std::env::var(WRITE).is_ok_and(|what| what == "write") {
            std::fs::write(&path, after).expect("written");
            continue;
        }
        if let Some(difference) = difference(&before, &after) {
            panic!("{}:{difference}\n{WRITE}=write writes what comes now", path.display());
        }
    }
}

/// The transcript with what comes of its commands now.
fn played<S>(text: &str, state: &mut S, run: &impl Fn(&mut S, &Command) -> String) -> String {
    let mut out = String::new();
    let mut is_answer = false;
    for line in text.lines() {
        if let Some(command) = line.strip_prefix('>') {
            let _ = writeln!(out, "{line}");
            let came = run(state, &Command::read(command));
            for line in came.lines() {
                let _ = writeln!(out, "{line}");
            }
            is_answer = true;
        } else if line.is_empty() || line.starts_with('#') {
            is_answer = false;
            let _ = writeln!(out, "{line}");
        } else {
            assert!(
                is_answer,
                "{line:?} is neither a command, nor what came of one, nor for readers"
            );
        }
    }
    out
}

/// The first line in which they differ, with those around it.
fn difference(before: &str, after: &str) -> Option<String> {
    let (before, after): (Vec<&str>, Vec<&str>) =
        (before.lines().collect(), after.lines().collect());
    let at = (0..before.len().max(after.len())).find(|at| before.get(*at) != after.get(*at))?;
    let from = (0..at).rev().find(|at| before[*at].starts_with('>')).unwrap_or(0);
    let shown = |lines: &[&str]| lines[from..lines.len().min(at + 4)].join("\n    ");
    Some(format!("{}:\n  written:\n    {}\n  came:\n    {}", at + 1, shown(&before), shown(&after)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(state: &mut i64, command: &Command) -> String {
        *state += command.number("by", 1);
        format!("{} {state}", command.word(0))
    }

    #[test]
    fn what_comes_now_takes_the_place_of_what_was_written() {
        let text = "# Sums.\n> add now\n\n> add then by=4\nold\nlines\n";
        let now = played(text, &mut 0, &sums);
        assert_eq!(now, "# Sums.\n> add now\nnow 1\n\n> add then by=4\nthen 5\n");
        assert_eq!(played(&now, &mut 0, &sums), now);
        let told = difference(text, &now).unwrap();
        assert!(told.starts_with("3:") && told.contains("now 1"), "{told}");
        assert_eq!(difference(&now, &now), None);
    }
}
