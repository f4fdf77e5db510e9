//! What do consumer groups cost a broker? Heartbeats of many members, the rebalance of a large group,
//! and commits at a rate, as members send them.
#![forbid(unsafe_code)]

use clap::{Parser, ValueEnum};
use client::Connection;
use model::ErrorCode;
use runtime::{Io, Runtime, clock, process, timer};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use wire::messages::{
    ApiVersionsRequest, ApiVersionsResponse, CreatableTopic, CreateTopicsRequest,
    CreateTopicsResponse, HeartbeatRequest, HeartbeatResponse, JoinGroupProtocol, JoinGroupRequest,
    JoinGroupResponse, OffsetCommitPartition, OffsetCommitRequest, OffsetCommitResponse,
    OffsetCommitTopic, SyncGroupAssignment, SyncGroupRequest, SyncGroupResponse,
};

/// From version 4 on a member needs a second step to get in.
const JOIN_VERSION: i16 = 3;
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Parser)]
struct Args {
    /// The broker; its group.initial.rebalance.delay.ms should be 5 for heartbeats, 500 for rebalance
    #[arg(long)]
    bootstrap_server: String,
    /// Its process, whose CPU is measured
    #[arg(long)]
    broker_pid: u32,
    #[arg(long, value_enum)]
    mode: Mode,
    /// How many groups
    #[arg(long, default_value_t = 1000)]
    groups: usize,
    /// Members of each
    #[arg(long, default_value_t = 4)]
    members: usize,
    /// How long to measure, in seconds
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Commits a second
    #[arg(long, default_value_t = 1000)]
    rate: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Every member beats every 3 s: CPU of the broker
    Heartbeats,
    /// One group: from the last join to everyone's answer, against everyone asking something small
    Rebalance,
    /// One offset a request
    Commits,
}

fn main() -> Result<(), String> {
    let args = Args::parse();
    let _ = process::raise_open_files();
    let runtime = Runtime::new(Io::Uring).map_err(|error| error.to_string())?;
    let done = runtime.block_on(async {
        match args.mode {
            Mode::Heartbeats => heartbeats(&args).await,
            Mode::Rebalance => rebalance(&args).await,
            Mode::Commits => commits(&args).await,
        }
    });
    done.expect("only the twin stops")
}

struct Seat {
    group: String,
    member_id: String,
    generation_id: i32,
}

async fn join(
    connection: &mut Connection,
    group: &str,
    member_id: &str,
) -> Result<JoinGroupResponse, String> {
    let request = JoinGroupRequest {
        group_id: group.to_owned(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
        member_id: member_id.to_owned(),
        protocol_type: "bench".to_owned(),
        protocols: vec![JoinGroupProtocol { name: "p".to_owned(), metadata: vec![1; 64] }],
        ..Default::default()
    };
    let joined: JoinGroupResponse = connection.ask_within(&request, JOIN_VERSION, PATIENCE).await?;
    match ErrorCode::from_code(joined.error_code) {
        ErrorCode::None => Ok(joined),
        error => Err(format!("join: {}", error.name())),
    }
}

/// Joins and takes its assignment; the leader brings everyone's.
async fn take_seat(
    connection: &mut Connection,
    group: &str,
    joined: JoinGroupResponse,
) -> Result<Seat, String> {
    let assignments = joined.members.iter().map(|member| SyncGroupAssignment {
        member_id: member.member_id.clone(),
        assignment: vec![2; 64],
    });
    let request = SyncGroupRequest {
        group_id: group.to_owned(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        assignments: assignments.collect(),
        ..Default::default()
    };
    let synced: SyncGroupResponse = connection.ask_within(&request, 3, PATIENCE).await?;
    match ErrorCode::from_code(synced.error_code) {
        ErrorCode::None => Ok(Seat {
            group: group.to_owned(),
            member_id: joined.member_id,
            generation_id: joined.generation_id,
        }),
        error => Err(format!("sync: {}", error.name())),
    }
}

/// One connection for each seat number; the members of a group come at once, group after group.
async fn heartbeats(args: &Args) -> Result<(), String> {
    let beats = Rc::new(Cell::new(0u64));
    let (seated, stop) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let failure: Rc<RefCell<Option<String>>> = Rc::default();
    for _ in 0..args.members {
        let mut connection = Connection::open(&args.bootstrap_server, "bench").await?;
        let (beats, seated, stop) = (Rc::clone(&beats), Rc::clone(&seated), Rc::clone(&stop));
        let (failure, groups) = (Rc::clone(&failure), args.groups);
        runtime::spawn(async move {
            let run = async {
                let mut seats = Vec::new();
                for number in 0..groups {
                    let group = format!("bench-{number}");
                    let joined = join(&mut connection, &group, "").await?;
                    seats.push(take_seat(&mut connection, &group, joined).await?);
                    seated.set(seated.get() + 1);
                }
                let pause = Duration::from_nanos(3_000_000_000 / groups as u64);
                let mut next = clock::now();
                while !stop.get() {
                    for seat in &seats {
                        next = next + pause;
                        timer::sleep_until(next).await;
                        let request = HeartbeatRequest {
                            group_id: seat.group.clone(),
                            generation_id: seat.generation_id,
                            member_id: seat.member_id.clone(),
                            group_instance_id: None,
                        };
                        let beat: HeartbeatResponse = connection.ask(&request).await?;
                        if beat.error_code != 0 {
                            let error = ErrorCode::from_code(beat.error_code);
                            return Err(format!("{}: {}", seat.group, error.name()));
                        }
                        beats.set(beats.get() + 1);
                    }
                }
                Ok::<_, String>(())
            };
            if let Err(why) = run.await {
                *failure.borrow_mut() = Some(why);
            }
        });
    }
    let failed = || failure.borrow().clone();
    while seated.get() < args.groups * args.members {
        timer::sleep(Duration::from_millis(50)).await;
        failed().map_or(Ok(()), Err)?;
    }
    timer::sleep(Duration::from_secs(3)).await;
    let usage = || process::usage(args.broker_pid).ok_or("the broker's process is gone");
    let (before, beats_before) = (usage()?, beats.get());
    timer::sleep(Duration::from_secs(args.seconds)).await;
    let (after, beaten) = (usage()?, beats.get() - beats_before);
    failed().map_or(Ok(()), Err)?;
    stop.set(true);
    let cpu_s = after.user_s + after.system_s - before.user_s - before.system_s;
    println!(
        "{} groups of {}: {:.0} heartbeats/s, broker {:.2} % of a core, {:.1} us each",
        args.groups,
        args.members,
        beaten as f64 / args.seconds as f64,
        cpu_s / args.seconds as f64 * 100.0,
        cpu_s / beaten.max(1) as f64 * 1e6
    );
    Ok(())
}

async fn rebalance(args: &Args) -> Result<(), String> {
    let mut connections = Vec::new();
    for _ in 0..args.members {
        let opened = Connection::open(&args.bootstrap_server, "bench").await?;
        connections.push(Rc::new(RefCell::new(Some(opened))));
    }
    let group = format!("rebalance-{}", clock::unix_ms());
    let mut ids = vec![String::new(); args.members];
    let mut trips = Vec::new();
    for round in 0..12 {
        // Everyone but the last has joined and waits; then the last one comes.
        let answers: Rc<RefCell<Vec<(usize, JoinGroupResponse)>>> = Rc::default();
        let last_sent = Rc::new(Cell::new(clock::now()));
        let start = |number: usize| {
            let (connection, answers) = (Rc::clone(&connections[number]), Rc::clone(&answers));
            let (group, id) = (group.clone(), ids[number].clone());
            runtime::spawn(async move {
                let mut own = connection.borrow_mut().take().expect("one request at a time");
                if let Ok(joined) = join(&mut own, &group, &id).await {
                    answers.borrow_mut().push((number, joined));
                }
                *connection.borrow_mut() = Some(own);
            });
        };
        // The leader first: only it can begin a rebalance of a stable group.
        start(0);
        if round > 0 {
            timer::sleep(Duration::from_millis(20)).await;
        }
        (1..args.members - 1).for_each(start);
        if round > 0 {
            timer::sleep(Duration::from_millis(100)).await;
        }
        last_sent.set(clock::now());
        start(args.members - 1);
        let limit = clock::now() + PATIENCE;
        while answers.borrow().len() < args.members {
            timer::sleep(Duration::from_micros(20)).await;
            if clock::now() > limit {
                return Err(format!("{} of {} joined", answers.borrow().len(), args.members));
            }
        }
        let settled_us = clock::now().since(last_sent.get()) as f64 / 1e3;
        let mut joined = std::mem::take(&mut *answers.borrow_mut());
        // The leader's place is the first connection's from now on.
        joined.sort_by_key(|(_, joined)| joined.leader != joined.member_id);
        let mut order: Vec<usize> = joined.iter().map(|(number, _)| *number).collect();
        let mut seats = Vec::new();
        for (number, joined) in joined {
            ids[number] = joined.member_id.clone();
            let mut own = connections[number].borrow_mut().take().expect("idle");
            seats.push(take_seat(&mut own, &group, joined).await?);
            *connections[number].borrow_mut() = Some(own);
        }
        let leader = order.remove(0);
        connections.swap(0, leader);
        ids.swap(0, leader);
        // The least there is to compare with: everyone asks something small at once.
        let answered = Rc::new(Cell::new(0));
        let began = clock::now();
        for connection in &connections {
            let (connection, answered) = (Rc::clone(connection), Rc::clone(&answered));
            runtime::spawn(async move {
                let mut own = connection.borrow_mut().take().expect("idle");
                let asked = own.ask(&ApiVersionsRequest::default()).await;
                let _: Result<ApiVersionsResponse, String> = asked;
                *connection.borrow_mut() = Some(own);
                answered.set(answered.get() + 1);
            });
        }
        while answered.get() < args.members {
            timer::sleep(Duration::from_micros(20)).await;
        }
        let trip_us = clock::now().since(began) as f64 / 1e3;
        if round >= 2 {
            trips.push((settled_us / trip_us, settled_us, trip_us));
        }
    }
    trips.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (ratio, settled, trip) = trips[trips.len() / 2];
    println!(
        "a group of {}: from the last join to the last of all answers {settled:.0} us; everyone asking \
         something small at once {trip:.0} us; ratio {ratio:.2} (median of {})",
        args.members,
        trips.len()
    );
    Ok(())
}

async fn commits(args: &Args) -> Result<(), String> {
    let mut connection = Connection::open(&args.bootstrap_server, "bench").await?;
    let topic = format!("commits-{}", clock::unix_ms());
    let new = CreatableTopic { name: topic.clone(), num_partitions: 10, ..Default::default() };
    let request = CreateTopicsRequest { topics: vec![new], ..Default::default() };
    let _: CreateTopicsResponse = connection.ask(&request).await?;
    // As many at once as needed to hold the rate.
    const LANES: u64 = 20;
    let (done, failed) = (Rc::new(Cell::new(0u64)), Rc::new(Cell::new(0u64)));
    for lane in 0..LANES {
        let mut connection = Connection::open(&args.bootstrap_server, "bench").await?;
        let (done, failed, topic) = (Rc::clone(&done), Rc::clone(&failed), topic.clone());
        let pause = Duration::from_nanos(1_000_000_000 * LANES / args.rate.max(1));
        runtime::spawn(async move {
            let mut next = clock::now();
            for offset in 0.. {
                next = next + pause;
                timer::sleep_until(next).await;
                let partition = OffsetCommitPartition {
                    partition_index: (offset % 10) as i32,
                    committed_offset: offset,
                    committed_metadata: Some(String::new()),
                    ..Default::default()
                };
                let request = OffsetCommitRequest {
                    group_id: format!("commits-{lane}"),
                    topics: vec![OffsetCommitTopic {
                        name: topic.clone(),
                        partitions: vec![partition],
                    }],
                    ..Default::default()
                };
                match connection.ask::<_, OffsetCommitResponse>(&request).await {
                    Ok(response) if response.topics[0].partitions[0].error_code == 0 => {
                        done.set(done.get() + 1);
                    }
                    _ => failed.set(failed.get() + 1),
                }
            }
        });
    }
    timer::sleep(Duration::from_secs(args.seconds)).await;
    println!("{:.0} commits/s, {} failed", done.get() as f64 / args.seconds as f64, failed.get());
    Ok(())
}
