//! Tables for people, JSON for programs, from the same rows.

use clap::ValueEnum;
use serde_json::{Map, Value};
use std::io::Write;

/// How an answer is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

/// Rows under named columns; a cell is a JSON value, shown plainly in a table.
pub(crate) struct View {
    columns: Vec<&'static str>,
    rows: Vec<Vec<Value>>,
}

impl View {
    pub(crate) fn new(columns: &[&'static str]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<Value>) {
        assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        self.rows.push(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows as JSON objects.
    pub(crate) fn json(&self) -> Value {
        let key = |column: &str| column.to_lowercase().replace('-', "_");
        let object = |row: &Vec<Value>| {
            let pairs = self.columns.iter().zip(row);
            Value::Object(pairs.map(|(c, v)| (key(c), v.clone())).collect::<Map<_, _>>())
        };
        Value::Array(self.rows.iter().map(object).collect())
    }

    /// The rows in columns as wide as they need; numbers to the right.
    pub(crate) fn table(&self) -> String {
        let shown: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(plain).collect()).collect();
        let width = |at: usize| {
            let cells = shown.iter().map(|row| row[at].chars().count());
            cells.chain([self.columns[at].len()]).max().unwrap_or(0)
        };
        let is_number = |at: usize| {
            !self.rows.is_empty()
                && self.rows.iter().all(|row| row[at].is_number() || row[at].is_null())
        };
        let line = |cells: &[String]| {
            let padded = cells.iter().enumerate().map(|(at, cell)| {
                let width = width(at);
                if is_number(at) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        };
        let head: Vec<String> = self.columns.iter().map(|column| (*column).to_owned()).collect();
        std::iter::once(line(&head)).chain(shown.iter().map(|row| line(row))).collect()
    }

    pub(crate) fn show(&self, format: Format) {
        match format {
            Format::Table => print(&self.table()),
            Format::Json => print_json(&self.json()),
        }
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Writes to standard output; one that is closed is no error.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

pub(crate) fn print_json(value: &Value) {
    let text = serde_json::to_string_pretty(value).expect("a value becomes text");
    print(&format!("{text}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_line_up_and_json_keeps_types() {
        let mut view = View::new(&["TOPIC", "LOG-END-OFFSET"]);
        view.row(vec![json!("a-long-name"), json!(7)]);
        view.row(vec![json!("b"), Value::Null]);
        assert_eq!(
            view.table(),
            "TOPIC        LOG-END-OFFSET\na-long-name               7\nb                         -\n"
        );
        assert_eq!(view.json()[0], json!({"topic": "a-long-name", "log_end_offset": 7}));
    }
}
