//! The bare-ring floor: a server on the same runtime that speaks just enough Kafka for loadgen, and
//! only receives, checksums, writes with O_DIRECT, and answers. What it costs is what is left when
//! a broker is taken away.
#![forbid(unsafe_code)]

use clap::Parser;
use model::record_batch::CRC_COVERS_FROM;
use model::{ErrorCode, crc32c};
use runtime::buffer::{ChunkPool, ChunkWriter, DiskRange, SharedBytes};
use runtime::file::{File, OpenOptions};
use runtime::notify::Notify;
use runtime::receive_buffer::{ReceiveBuffer, ReceivePool};
use runtime::socket::{Listener, Socket};
use runtime::{Io, Runtime, fs, spawn};
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::path::PathBuf;
use std::rc::Rc;
use wire::ApiKey;
use wire::api_key::APIS;
use wire::frame::frame_bytes;
use wire::header::{RequestHeader, begin_response, finish_frame};
use wire::messages::{
    ApiVersion, ApiVersionsResponse, Message, MetadataBroker, MetadataPartition, MetadataRequest,
    MetadataResponse, MetadataTopic,
};
use wire::produce::{ProduceRequest, ProduceResult, put_response};

const CHUNK_BYTES: usize = 1024 * 1024 + 64 * 1024;
const SLAB_BYTES: usize = 1024 * 1024;
const FILE_BYTES: u64 = 1 << 30;
const ALLOCATE_BYTES: u64 = 32 << 20;

#[derive(Parser, Clone)]
struct Args {
    /// Where to write
    #[arg(long, default_value = "floor-data")]
    data_dir: PathBuf,
    /// Partitions of the one topic
    #[arg(long, default_value_t = 12)]
    partitions: i32,
}

/// One file per connection and thread, rewritten from its start when full: the bare work.
struct Appender {
    file: File,
    state: RefCell<(ChunkWriter, u64, u64)>,
    pool: RefCell<ChunkPool>,
    writing: Cell<bool>,
    changed: Notify,
}

fn main() {
    let args = Args::parse();
    let cpus = runtime::thread::cpus();
    let first = Listener::bind("127.0.0.1:0".parse().expect("an address"), true).expect("a port");
    let address = first.local_address().expect("bound");
    let mut threads = Vec::new();
    let mut listeners = vec![first];
    for _ in 1..cpus.len() {
        listeners.push(Listener::bind(address, true).expect("a shared port"));
    }
    for (number, listener) in listeners.into_iter().enumerate() {
        let args = args.clone();
        let port = i32::from(address.port());
        let cpu = Some(cpus[number]);
        let thread = runtime::thread::spawn("floor", cpu, move || {
            let runtime = Runtime::new(Io::Uring).expect("io_uring");
            runtime.block_on(accept(listener, args, number, port)).expect("only the twin stops");
        });
        threads.push(thread.expect("a thread"));
    }
    let _ = writeln!(std::io::stdout(), "listening on {address}");
    for thread in threads {
        let _ = thread.join();
    }
}

async fn accept(listener: Listener, args: Args, thread: usize, port: i32) {
    let mut number = 0;
    let pool = Rc::new(RefCell::new(ReceivePool::new(CHUNK_BYTES, 16)));
    while let Ok(socket) = listener.accept().await {
        number += 1;
        let (args, pool) = (args.clone(), Rc::clone(&pool));
        spawn(async move {
            fs::create_dir_all(&args.data_dir).expect("a data directory");
            let path = args.data_dir.join(format!("{thread}-{number}"));
            let options = OpenOptions { create: true, write: true, direct: true };
            let file = File::open(&path, options).expect("a file");
            let mut slabs = ChunkPool::new(SLAB_BYTES, 64, 8);
            let first = slabs.take_or_grow();
            let appender = Appender {
                file,
                state: RefCell::new((first, 0, 0)),
                pool: RefCell::new(slabs),
                writing: Cell::new(false),
                changed: Notify::default(),
            };
            serve(socket, &args, port, &pool, &appender).await;
        });
    }
}

async fn serve(
    socket: Socket,
    args: &Args,
    port: i32,
    pool: &RefCell<ReceivePool>,
    appender: &Appender,
) {
    let mut buffer = ReceiveBuffer::new(&mut pool.borrow_mut());
    let mut heads = ChunkPool::new(64 * 1024, 8, 1);
    let mut out = Vec::new();
    let mut pieces: Vec<SharedBytes> = Vec::new();
    loop {
        let mut wanted = 0;
        // Everything that has arrived is one group: appended, written once, answered together.
        out.clear();
        loop {
            let Ok(total) = frame_bytes(buffer.bytes(), 100 << 20) else { return };
            let Some(total) = total else { break };
            if buffer.bytes().len() < total {
                wanted = total;
                break;
            }
            let frame = buffer.take(total).slice(4..total);
            answer(&frame, args, port, appender, &mut out);
        }
        if !out.is_empty() {
            if appender.is_dirty() {
                appender.flush().await;
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

fn answer(frame: &SharedBytes, args: &Args, port: i32, appender: &Appender, out: &mut Vec<u8>) {
    let Ok((key, header, mut body)) = RequestHeader::read(frame) else { return };
    let (version, start) = (header.version, out.len());
    begin_response(out, key, version, header.correlation_id);
    match key {
        ApiKey::Produce => {
            let Ok(request) = ProduceRequest::read(body, version) else { return };
            for partition in request.partitions() {
                appender.append(partition.records.unwrap_or_default());
            }
            let done = ProduceResult {
                error: ErrorCode::None,
                base_offset: 0,
                log_append_time: -1,
                log_start_offset: 0,
                message: None,
                bad_records: None,
            };
            put_response(out, version, &request, request.partitions().map(|_| done.clone()));
        }
        ApiKey::Metadata => {
            let Ok(asked) = MetadataRequest::decode(&mut body, version) else { return };
            let host = "127.0.0.1".to_owned();
            let broker = MetadataBroker { node_id: 1, host, port, rack: None };
            let partition = |index| MetadataPartition {
                partition_index: index,
                leader_id: 1,
                ..Default::default()
            };
            let topic = |name: Option<String>| MetadataTopic {
                name,
                partitions: (0..args.partitions).map(partition).collect(),
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
            let ranges = APIS.iter().map(|api| ApiVersion {
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

impl Appender {
    /// Checksums a batch and copies it behind the last one.
    fn append(&self, batch: &[u8]) {
        let expected =
            batch.get(17..21).map(|crc| u32::from_be_bytes(crc.try_into().expect("4 bytes")));
        let crc = batch.get(CRC_COVERS_FROM..).map(crc32c::checksum);
        assert_eq!(expected, crc, "loadgen sends whole batches");
        let mut state = self.state.borrow_mut();
        let mut rest = batch;
        while !rest.is_empty() {
            if state.0.remaining() == 0 {
                // The bare server keeps at most one slab: what does not fit waits for the flush.
                let (slab, ..) = &mut *state;
                let mut pool = self.pool.borrow_mut();
                let full = std::mem::replace(slab, pool.take_or_grow());
                PENDING.with(|pending| pending.borrow_mut().push(full));
            }
            let taken = state.0.append(rest);
            rest = &rest[taken..];
        }
    }

    fn is_dirty(&self) -> bool {
        self.state.borrow().0.filled() > 0 || PENDING.with(|pending| !pending.borrow().is_empty())
    }

    /// Writes what was appended since the last call, in whole blocks.
    async fn flush(&self) {
        self.changed.until(|| (!self.writing.replace(true)).then_some(())).await;
        let (mut pieces, from, full) = {
            let mut state = self.state.borrow_mut();
            let (slab, position, _) = &mut *state;
            let mut full = PENDING.with(|pending| std::mem::take(&mut *pending.borrow_mut()));
            let mut pieces: Vec<DiskRange> = Vec::new();
            let from = *position;
            for slab in &mut full {
                let end = slab.filled();
                pieces.push(slab.disk_range(0..end));
            }
            let end = slab.filled().next_multiple_of(4096);
            pieces.push(slab.disk_range(0..end));
            let bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
            *position = from + bytes;
            if *position + (64 << 20) > FILE_BYTES {
                *position = 0;
            }
            // The next group begins a fresh slab: no block is written twice.
            let fresh = self.pool.borrow_mut().take_or_grow();
            full.push(std::mem::replace(slab, fresh));
            (pieces, from, full)
        };
        let end = from + pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        let allocated = self.state.borrow().2;
        if end > allocated {
            let more = (end - allocated).next_multiple_of(ALLOCATE_BYTES);
            self.file.allocate(allocated, more).await.expect("disk space");
            self.state.borrow_mut().2 = allocated + more;
        }
        self.file.write_at(&mut pieces, from, false).await.expect("a write");
        full.into_iter().for_each(|slab| self.pool.borrow_mut().retire(slab));
        self.writing.set(false);
        self.changed.notify();
    }
}

thread_local! {
    /// Slabs that filled up within the group being appended.
    static PENDING: RefCell<Vec<ChunkWriter>> = const { RefCell::new(Vec::new()) };
}
