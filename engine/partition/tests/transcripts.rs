//! What a partition decides, as transcripts: `tests/transcripts`. Written anew with `WEIR_TRANSCRIPTS=write`.

use model::{
    BatchBuilder, Compression, LeaderEpoch, Marker, Offset, Producer, ProducerId, RecordBatch,
};
use partition::{Admission, Leader, Level, Producers};
use std::path::Path;
use transcript::{Command, check};

fn directory(of: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts").join(of)
}

fn lead(leader: &mut Leader, command: &Command) -> String {
    let offset = |name| Offset(command.number(name, 0));
    let said = match command.verb.as_str() {
        "append" => {
            let level = if command.says("durable") { Level::Durable } else { Level::Written };
            leader.on_appended(command.number("records", 1), level);
            String::new()
        }
        "disk" => {
            let advanced = leader.on_flushed(offset("written"), offset("durable"));
            advanced.map_or(String::new(), |to| format!("visible to {}, ", to.to))
        }
        "drop" => {
            leader.on_unwritten_dropped();
            String::new()
        }
        "delete" => {
            leader.on_log_start(offset("below"));
            String::new()
        }
        "fetch" => {
            let checked = leader.check_fetch(offset("from"), command.number("epoch", -1));
            return checked.map_or_else(|error| error.error_code().name(), |()| "fine".to_owned());
        }
        other => panic!("there is no command {other}"),
    };
    let (start, high, end) = (leader.log_start(), leader.high_watermark(), leader.log_end());
    format!("{said}log {start}..{end}, HighWatermark {high}")
}

#[test]
fn leaders() {
    let begin = || Leader::new(LeaderEpoch(3), Offset(10), Offset(20));
    check(&directory("leader"), begin, lead);
}

/// What is known of producers, and where the log ends.
struct Known {
    producers: Producers,
    end: i64,
    ms: i64,
}

impl Known {
    fn run(&mut self, command: &Command) -> String {
        let producer = Producer {
            id: ProducerId(command.number("producer", 1)),
            epoch: command.number("epoch", 0),
        };
        self.ms += 1;
        match command.verb.as_str() {
            "send" => {
                let mut builder = BatchBuilder::default();
                builder.begin(self.ms);
                let is_transactional = command.says("transactional");
                builder.set_producer(producer, command.number("sequence", 0), is_transactional);
                for _ in 0..command.number("records", 1) {
                    builder.push(self.ms, None, Some(b"v"), &[]);
                }
                let bytes = builder.finish(Compression::None).to_vec();
                let (batch, _) = RecordBatch::split_first(&bytes).expect("built just now");
                let proof = command
                    .says("proven")
                    .then(|| self.producers.begin_proof(producer.id, self.ms));
                match self.producers.admit(batch, proof) {
                    Ok(Admission::New) => {
                        let base = self.end;
                        self.producers.on_batch(batch, Offset(base), self.ms);
                        self.end += i64::from(batch.last_offset_delta()) + 1;
                        format!("at {base}")
                    }
                    Ok(Admission::Duplicate(known)) => format!("known already, at {}", known.base),
                    Err(error) => error.name(),
                }
            }
            "marker" => {
                let marker = Marker {
                    producer,
                    commit: command.says("commit"),
                    coordinator_epoch: command.number("coordinator", 0),
                };
                if let Err(error) = self.producers.check_marker(&marker) {
                    return error.name();
                }
                let mut builder = BatchBuilder::default();
                let batch = marker.put(&mut builder, self.ms);
                let base = self.end;
                self.producers.on_batch(batch, Offset(base), self.ms);
                self.end += 1;
                format!("at {base}")
            }
            "visible" => {
                let high = Offset(command.number("to", self.end));
                self.producers.on_high_watermark(high);
                format!("committed below {}", self.producers.last_stable_offset(high))
            }
            "aborted" => {
                let (from, to) = (command.number("from", 0), command.number("to", self.end));
                let shown = self.producers.aborted(Offset(from), Offset(to));
                let shown: Vec<String> = shown
                    .map(|a| format!("producer {} in {}..{}", a.producer, a.first, a.last))
                    .collect();
                if shown.is_empty() { "none".to_owned() } else { shown.join("\n") }
            }
            "lost" => {
                self.end = command.number("above", 0);
                self.producers.on_dropped(Offset(self.end));
                format!("the log ends at {}", self.end)
            }
            other => panic!("there is no command {other}"),
        }
    }
}

#[test]
fn producers() {
    let begin = || Known { producers: Producers::default(), end: 0, ms: 0 };
    check(&directory("producers"), begin, Known::run);
}
