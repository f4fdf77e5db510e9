//! Flags that several verbs take.

use clap::{ArgAction, Args};

/// NAME=VALUE.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is expected")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A flag that only looks.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct DryRun {
    /// Check, and change nothing
    #[arg(long, action = ArgAction::SetTrue)]
    pub(super) dry_run: bool,
}
