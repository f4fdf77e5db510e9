//! `history FILE...`: checks what clients saw, as JSON lines (see `sim::history`); ends with 1 at an
//! anomaly and with 2 if a file cannot be read.

use sim::history::{check, read_lines};
use std::process::ExitCode;

fn main() -> ExitCode {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        eprintln!("usage: history FILE... (JSON lines of what clients saw)");
        return ExitCode::from(2);
    }
    let mut text = String::new();
    for file in &files {
        match std::fs::read_to_string(file) {
            Ok(lines) => text.extend([lines.as_str(), "\n"]),
            Err(error) => {
                eprintln!("{file}: {error}");
                return ExitCode::from(2);
            }
        }
    }
    let history = match read_lines(&text) {
        Ok(history) => history,
        Err(why) => {
            eprintln!("{}: {why}", files.join(", "));
            return ExitCode::from(2);
        }
    };
    let anomalies = check(&history);
    let (steps, finals) = (history.steps.len(), history.finals.len());
    println!("{steps} steps, {finals} final reads: {} anomalies", anomalies.len());
    for anomaly in anomalies.iter().take(20) {
        println!("  {anomaly}");
    }
    ExitCode::from(u8::from(!anomalies.is_empty()))
}
