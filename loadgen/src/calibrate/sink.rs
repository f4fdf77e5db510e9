//! A server that only answers: it speaks just enough Kafka for producers and keeps nothing. What
//! loadgen does against it is loadgen's own limit; and it can be told to stall, so that loadgen's
//! honesty is seen with a delay that is known exactly.

use runtime::buffer::{ChunkPool, SharedBytes};
use runtime::clock::{self, Nanos};
use runtime::receive_buffer::{ReceiveBuffer, ReceivePool};
use runtime::socket::{Listener, Socket};
use runtime::{Io, Runtime, spawn, timer};
use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::rc::Rc;
use std::time::Duration;
use wire::ApiKey;
use wire::api_key::APIS;
use wire::frame::frame_bytes;
use wire::header::{RequestHeader, begin_response, finish_frame};
use wire::messages::{
    ApiVersion, ApiVersionsResponse, Message, MetadataBroker, MetadataPartition, MetadataRequest,
    MetadataResponse, MetadataTopic,
};
use wire::produce::{ProduceRequest, ProduceResult, put_response};

const ASKED: &str = "embedded-sink";
const CHUNK_BYTES: usize = 1024 * 1024 + 64 * 1024;

/// When it stands still, counted from the first produce request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stall {
    pub(crate) at: Duration,
    pub(crate) long: Duration,
}

/// Becomes the sink if this process was started as one: `embedded-sink PARTITIONS [AT_MS LONG_MS]`.
pub(crate) fn serve_if_asked() -> Option<ExitCode> {
    let mut args = std::env::args().skip(1);
    if args.next()? != ASKED {
        return None;
    }
    runtime::process::die_with_parent();
    let numbers: Vec<u64> = args.filter_map(|arg| arg.parse().ok()).collect();
    let partitions = numbers.first().map_or(1, |n| *n as i32);
    let stall = match numbers[..] {
        [_, at, long] => {
            Some(Stall { at: Duration::from_millis(at), long: Duration::from_millis(long) })
        }
        _ => None,
    };
    let ran = Runtime::new(Io::Uring).map(|runtime| runtime.block_on(accept(partitions, stall)));
    Some(if ran.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A running sink; dropping it ends it.
pub(crate) struct Sink {
    child: Child,
    address: String,
}

impl Sink {
    pub(crate) fn start(partitions: i32, stall: Option<Stall>) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.arg(ASKED).arg(partitions.to_string());
        if let Some(stall) = stall {
            command.args([stall.at.as_millis().to_string(), stall.long.as_millis().to_string()]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut line = String::new();
        let _ = BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line);
        match line.trim().strip_prefix("listening on ") {
            Some(address) => Ok(Self { child, address: address.to_owned() }),
            None => Err("the sink did not start".to_owned()),
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Shared {
    partitions: i32,
    port: i32,
    stall: Option<Stall>,
    first: Cell<Option<Nanos>>,
}

async fn accept(partitions: i32, stall: Option<Stall>) {
    let listener =
        Listener::bind("127.0.0.1:0".parse().expect("an address"), false).expect("a port");
    let address = listener.local_address().expect("bound");
    let _ = writeln!(std::io::stdout(), "listening on {address}");
    let port = i32::from(address.port());
    let shared = Rc::new(Shared { partitions, port, stall, first: Cell::new(None) });
    let pool = Rc::new(RefCell::new(ReceivePool::new(CHUNK_BYTES, 16)));
    while let Ok(socket) = listener.accept().await {
        let (shared, pool) = (Rc::clone(&shared), Rc::clone(&pool));
        spawn(async move { serve(socket, &shared, &pool).await });
    }
}

async fn serve(socket: Socket, shared: &Shared, pool: &RefCell<ReceivePool>) {
    let mut buffer = ReceiveBuffer::new(&mut pool.borrow_mut());
    let mut heads = ChunkPool::new(64 * 1024, 8, 1);
    let mut out = Vec::new();
    let mut pieces: Vec<SharedBytes> = Vec::new();
    loop {
        let mut wanted = 0;
        out.clear();
        loop {
            let Ok(total) = frame_bytes(buffer.bytes(), 100 << 20) else { return };
            let Some(total) = total else { break };
            if buffer.bytes().len() < total {
                wanted = total;
                break;
            }
            let frame = buffer.take(total).slice(4..total);
            answer(&frame, shared, &mut out);
        }
        if !out.is_empty() {
            if let (Some(stall), Some(first)) = (shared.stall, shared.first.get()) {
                let (from, to) = (first + stall.at, first + stall.at + stall.long);
                if (from..to).contains(&clock::now()) {
                    timer::sleep_until(to).await;
                }
            }
            let mut head = heads.take_or_grow();
            head.append(&out);
            pieces.push(head.share(0..out.len()));
            heads.retire(head);
            if socket.send(&mut pieces).await.is_err() {
                return;
            }
        }
        buffer.make_room(wanted, &mut pool.borrow_mut());
        if socket.receive(&mut buffer, wanted).await.unwrap_or(0) == 0 {
            return;
        }
    }
}

fn answer(frame: &SharedBytes, shared: &Shared, out: &mut Vec<u8>) {
    let Ok((key, header, mut body)) = RequestHeader::read(frame) else { return };
    let (version, start) = (header.version, out.len());
    begin_response(out, key, version, header.correlation_id);
    match key {
        ApiKey::Produce => {
            shared.first.set(Some(shared.first.get().unwrap_or_else(clock::now)));
            let Ok(request) = ProduceRequest::read(body, version) else { return };
            let done = ProduceResult::appended(model::Offset(0), model::Offset(0), -1);
            put_response(out, version, &request, request.partitions().map(|_| done.clone()));
        }
        ApiKey::Metadata => {
            let Ok(asked) = MetadataRequest::decode(&mut body, version) else { return };
            let host = "127.0.0.1".to_owned();
            let broker = MetadataBroker { node_id: 1, host, port: shared.port, rack: None };
            let partition = |index| MetadataPartition {
                partition_index: index,
                leader_id: 1,
                ..Default::default()
            };
            let topic = |name: Option<String>| MetadataTopic {
                name,
                partitions: (0..shared.partitions).map(partition).collect(),
                ..Default::default()
            };
            let asked = asked.topics.unwrap_or_default();
            let response = MetadataResponse {
                brokers: vec![broker],
                controller_id: 1,
                topics: asked.into_iter().map(|asked| topic(asked.name)).collect(),
                ..Default::default()
            };
            response.encode(out, version);
        }
        _ => {
            // What else is asked is not spoken here.
            let spoken = [ApiKey::Produce, ApiKey::Metadata, ApiKey::ApiVersions];
            let ranges =
                APIS.iter().filter(|api| spoken.contains(&api.key)).map(|api| ApiVersion {
                    api_key: api.key as i16,
                    min_version: api.version_min,
                    max_version: api.version_max,
                });
            let response = ApiVersionsResponse { api_keys: ranges.collect(), ..Default::default() };
            response.encode(out, version);
        }
    }
    finish_frame(out, start, 0);
}
