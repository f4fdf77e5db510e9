//! What a byte out costs: a reader that fetches what is in memory, as fast as it is answered, and the bare
//! loop of blocking sends that a broker is compared with.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods)]

use benches::{Client, FETCH_LIMITS, batch, create_topic, frame};
use clap::{Parser, Subcommand};
use model::{TopicId, TopicRef};
use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};
use wire::ApiKey;
use wire::fetch::{self, FetchAsk, FetchLimits};
use wire::produce;

/// Bytes of a batch, about: 127 records of 1 KiB.
const RECORDS: u32 = 127;
/// Batches a partition: 12 partitions then hold 25 MB, which is in memory and in no processor's cache.
const BATCHES: i64 = 16;
const TOPIC: &str = "tail";

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Answers each request with the next so many bytes of its memory
    Serve {
        #[arg(long)]
        partitions: usize,
    },
    /// Fills a topic unless the server is the bare one, reads it over and over, and prints the
    /// server's CPU seconds per GB
    Read {
        #[arg(long)]
        bootstrap_server: String,
        #[arg(long)]
        server_pid: u32,
        #[arg(long)]
        partitions: i32,
        /// Only read: the server has no topics
        #[arg(long)]
        bare: bool,
        #[arg(long, default_value_t = 4)]
        seconds: u64,
        /// Ask no more often than this: the server sleeps between answers, as at a live tail. 0: as fast as it
        /// is answered
        #[arg(long, default_value_t = 0)]
        answers_per_s: u32,
    },
}

fn main() {
    match Args::parse().what {
        What::Serve { partitions } => serve(partitions),
        What::Read { bootstrap_server, server_pid, partitions, bare, seconds, answers_per_s } => {
            let stream = TcpStream::connect(bootstrap_server).expect("it listens");
            let mut client = Client::new(stream, 4 << 20);
            let records = batch(RECORDS, 1024);
            if !bare {
                fill(&mut client, partitions, &records);
            }
            let pace = (answers_per_s > 0).then(|| Duration::from_secs(1) / answers_per_s);
            read(&mut client, server_pid, partitions, records.len(), seconds, pace);
        }
    }
}

fn serve(partitions: usize) {
    let records = batch(RECORDS, 1024);
    let answer_bytes = records.len() * partitions;
    // As much memory as a broker would read the same topic from.
    let memory: &'static [u8] = records.repeat(12 * BATCHES as usize).leak();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    println!("listening on {}", listener.local_addr().expect("bound"));
    for stream in listener.incoming() {
        let mut stream = stream.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        thread::spawn(move || {
            let mut request = vec![0; 64 * 1024];
            for answer in memory.chunks_exact(answer_bytes).cycle() {
                if stream.read_exact(&mut request[..4]).is_err() {
                    return;
                }
                let length = u32::from_be_bytes(request[..4].try_into().expect("4 bytes"));
                stream.read_exact(&mut request[..length as usize]).expect("a whole request");
                let head = (answer_bytes as u32).to_be_bytes();
                let both = [IoSlice::new(&head), IoSlice::new(answer)];
                let sent = stream.write_vectored(&both).expect("the reader reads");
                assert!(sent >= 4, "the head goes out at once");
                stream.write_all(&answer[sent - 4..]).expect("the reader reads");
            }
        });
    }
}

fn fill(client: &mut Client, partitions: i32, records: &[u8]) {
    create_topic(client, TOPIC, partitions);
    for _ in 0..BATCHES {
        for partition in 0..partitions {
            let request = frame(ApiKey::Produce, 9, |out| {
                let batches = [(partition, records)].into_iter();
                produce::put_request(out, 9, 1, 1000, TopicRef::Name(TOPIC), batches);
            });
            client.exchange(&request);
        }
    }
}

fn read(
    client: &mut Client,
    pid: u32,
    partitions: i32,
    batch_bytes: usize,
    seconds: u64,
    pace: Option<Duration>,
) {
    let limits = FetchLimits {
        max_bytes: 50 << 20,
        partition_max_bytes: batch_bytes as u32 as i32,
        ..FETCH_LIMITS
    };
    let fetches: Vec<Vec<u8>> = (0..BATCHES)
        .map(|number| number * i64::from(RECORDS))
        .map(|offset| {
            let asks: Vec<_> =
                (0..partitions).map(|partition| FetchAsk { partition, offset }).collect();
            frame(ApiKey::Fetch, 12, |out| {
                fetch::put_request(out, 12, limits, TOPIC, TopicId::ZERO, &asks);
            })
        })
        .collect();
    let expected = batch_bytes * partitions as usize;
    // Once around before anything counts: writes end, and memory is where it stays.
    for fetch in &fetches {
        client.exchange(fetch);
    }
    thread::sleep(Duration::from_millis(500));
    let usage = || runtime::process::usage(pid).expect("the server lives");
    let (before, began) = (usage(), Instant::now());
    let disk_before = disk_read_bytes(pid);
    let (mut bytes, mut answers) = (0, 0u64);
    while began.elapsed() < Duration::from_secs(seconds) {
        for fetch in &fetches {
            let due = pace.map_or(Duration::ZERO, |pace| pace * answers as u32);
            thread::sleep(due.saturating_sub(began.elapsed()));
            let got = client.exchange(fetch).len();
            // The work is done: each answer holds a batch of each partition.
            assert!((expected..expected + 4096).contains(&got), "{got} bytes for {expected}");
            bytes += got;
            answers += 1;
        }
    }
    let (elapsed, after) = (began.elapsed().as_secs_f64(), usage());
    assert_eq!(disk_read_bytes(pid), disk_before, "all of it was in memory");
    let gb = bytes as f64 / 1e9;
    let (user, system) = (after.user_s - before.user_s, after.system_s - before.system_s);
    println!(
        "cpu_s_per_gb {:.4} user {:.4} system {:.4} answers {answers} gb {gb:.2} gb_per_s {:.2}",
        (user + system) / gb,
        user / gb,
        system / gb,
        gb / elapsed
    );
}

/// Bytes a process had the disk read.
fn disk_read_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}
