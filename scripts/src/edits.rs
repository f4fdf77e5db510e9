//! Texts of the code that are replaced in a copy of the checkout, to see that somebody notices: rules that are
//! removed, and work that is added.

use crate::steps::{Done, top};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One text that is replaced, as a list of them tells it.
pub(crate) struct Edit {
    pub(crate) name: String,
    file: String,
    from: String,
    to: String,
    list: &'static str,
    /// All keys of its entry.
    entry: toml::Table,
}

/// Reads the entries `[[key]]` of a list.
pub(crate) fn read(list: &'static str, key: &str) -> Result<Vec<Edit>, String> {
    let text =
        std::fs::read_to_string(top().join(list)).map_err(|error| format!("{list}: {error}"))?;
    let table: toml::Table = text.parse().map_err(|error| format!("{list}: {error}"))?;
    let entries = table.get(key).and_then(toml::Value::as_array);
    let entries = entries.ok_or_else(|| format!("{list}: no [[{key}]]"))?;
    let edit = |entry: &toml::Value| {
        let entry = entry.as_table()?.clone();
        let text = |key: &str| entry.get(key)?.as_str().map(str::to_owned);
        let (name, file) = (text("name")?, text("file")?);
        Some(Edit { name, file, from: text("from")?, to: text("to")?, list, entry })
    };
    entries.iter().map(edit).collect::<Option<_>>().ok_or(format!("{list}: a key is missing"))
}

/// What is wrong with a list: edits whose text the code holds no more, or more than once.
pub(crate) fn stale(list: &'static str, key: &str) -> Result<Vec<String>, String> {
    Ok(read(list, key)?.iter().filter_map(|edit| edit.original(&top()).err()).collect())
}

impl Edit {
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.entry.get(key)?.as_str()
    }

    pub(crate) fn number(&self, key: &str) -> Option<i64> {
        self.entry.get(key)?.as_integer()
    }

    /// Its file, if that holds its text once.
    fn original(&self, root: &Path) -> Result<String, String> {
        let Self { name, file, list, .. } = self;
        let text = std::fs::read_to_string(root.join(file))
            .map_err(|error| format!("{list}: {name}: {file}: {error}"))?;
        match text.matches(&self.from).count() {
            1 => Ok(text),
            count => Err(format!("{list}: {name}: {file} holds its text {count} times, not once")),
        }
    }

    /// Replaces the text in a copy; returns the file as it was.
    pub(crate) fn apply(&self, copy: &Path) -> Result<String, String> {
        let original = self.original(copy)?;
        self.write(copy, &original.replace(&self.from, &self.to))?;
        Ok(original)
    }

    /// Puts back what `apply` returned.
    pub(crate) fn restore(&self, copy: &Path, original: &str) -> Done {
        self.write(copy, original)
    }

    fn write(&self, copy: &Path, text: &str) -> Done {
        let written = std::fs::write(copy.join(&self.file), text);
        written.map_err(|error| format!("{}: {error}", self.file))
    }
}

/// A copy of the files that git knows, as they are now, in a directory of `target`; where it is.
pub(crate) fn copy_checkout(directory: &str) -> Result<PathBuf, String> {
    let to = top().join("target").join(directory).join("checkout");
    let listed = Command::new("git").arg("ls-files").current_dir(top()).output();
    let listed = listed.map_err(|error| format!("git: {error}"))?;
    for name in String::from_utf8_lossy(&listed.stdout).lines() {
        let (source, target) = (top().join(name), to.join(name));
        let Ok(bytes) = std::fs::read(&source) else { continue };
        // An unchanged file keeps its time, so that little is built again.
        if std::fs::read(&target).is_ok_and(|before| before == bytes) {
            continue;
        }
        let made = std::fs::create_dir_all(target.parent().unwrap_or(&to));
        made.and_then(|()| std::fs::write(&target, bytes)).map_err(|e| format!("{name}: {e}"))?;
    }
    remove_others(&to, &to)?;
    Ok(to)
}

/// Removes what the checkout does not have any more: a file that was moved would be there twice.
fn remove_others(copy: &Path, directory: &Path) -> Result<(), String> {
    let told = |error: std::io::Error| format!("{}: {error}", directory.display());
    for entry in std::fs::read_dir(directory).map_err(told)? {
        let path = entry.map_err(told)?.path();
        let is_kept = path.strip_prefix(copy).is_ok_and(|name| top().join(name).is_file());
        if path.is_dir() {
            remove_others(copy, &path)?;
        } else if !is_kept {
            std::fs::remove_file(&path).map_err(told)?;
        }
    }
    Ok(())
}
