//! What a broker refused, in words.

use model::ErrorCode;

/// An error in words: what it was about, Kafka's name of it, and what the broker said.
pub(super) fn refused(what: &str, code: i16, said: Option<&str>) -> String {
    let error = ErrorCode::from_code(code);
    let said = said.filter(|said| !said.is_empty()).unwrap_or_else(|| error.meaning());
    format!("{what}: {} ({said})", error.name())
}

/// All of them in one text, or fine.
pub(super) fn all_fine(failures: Vec<String>) -> Result<(), String> {
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\nweir: ")) }
}
