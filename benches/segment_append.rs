//! The same work on four runtimes: append 64 KiB blocks to a preallocated file past the page cache,
//! one in flight, and the same made durable. Ours, glommio, tokio-uring, blocking std.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use glommio::io::{DmaFile, OpenOptions as GlommioOptions};
use runtime::buffer::ChunkWriter;
use runtime::file::{File, OpenOptions};
use runtime::fs::TemporaryDir;
use runtime::{Io, Runtime};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

const BLOCK_BYTES: usize = 64 * 1024;
const FILE_BYTES: u64 = 64 * 1024 * 1024;
const O_DIRECT: i32 = 0x4000;

/// Every runner starts from the same file: allocated, never written.
fn fresh(dir: &Path, name: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    let _ = std::fs::remove_file(&path);
    let runtime = Runtime::new(Io::Uring).expect("io_uring");
    let made = runtime.block_on(async {
        let options = OpenOptions { create: true, write: true, direct: true };
        File::open(&path, options)?.allocate(0, FILE_BYTES).await
    });
    made.expect("only the twin stops").expect("disk space");
    path
}

fn position(block: u64) -> u64 {
    block * BLOCK_BYTES as u64 % FILE_BYTES
}

#[allow(clippy::disallowed_methods)]
fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn ours(path: &Path, blocks: u64, durable: bool) -> Duration {
    let runtime = Runtime::new(Io::Uring).expect("io_uring");
    let ran = runtime.block_on(async {
        let options = OpenOptions { create: false, write: true, direct: true };
        let file = File::open(path, options).expect("the file");
        let mut block = ChunkWriter::with_capacity(BLOCK_BYTES);
        block.append(&vec![7; BLOCK_BYTES]);
        let mut pieces = Vec::new();
        let start = runtime::clock::now();
        for number in 0..blocks {
            pieces.push(block.disk_range(0..BLOCK_BYTES));
            file.write_at(&mut pieces, position(number), durable).await.expect("a write");
        }
        Duration::from_nanos(runtime::clock::now().since(start))
    });
    ran.expect("only the twin stops")
}

fn on_glommio(path: &Path, blocks: u64, durable: bool) -> Duration {
    let path = path.to_owned();
    let executor = glommio::LocalExecutorBuilder::default().spawn(move || async move {
        let file: DmaFile =
            GlommioOptions::new().write(true).dma_open(&path).await.expect("the file");
        let start = runtime::clock::now();
        for number in 0..blocks {
            // glommio consumes its buffer: a new one per write is its way.
            let mut block = file.alloc_dma_buffer(BLOCK_BYTES);
            block.as_bytes_mut().fill(7);
            file.write_at(block, position(number)).await.expect("a write");
            if durable {
                file.fdatasync().await.expect("a sync");
            }
        }
        let took = Duration::from_nanos(runtime::clock::now().since(start));
        file.close().await.expect("closed");
        took
    });
    executor.expect("an executor").join().expect("no panic")
}

fn on_tokio_uring(path: &Path, blocks: u64, durable: bool) -> Duration {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .custom_flags(O_DIRECT)
        .open(path)
        .expect("the file");
    tokio_uring::start(async move {
        let file = tokio_uring::fs::File::from_std(file);
        let mut block = aligned();
        let start = runtime::clock::now();
        for number in 0..blocks {
            let (written, back) = file.write_all_at(block, position(number)).await;
            written.expect("a write");
            block = back;
            if durable {
                file.sync_data().await.expect("a sync");
            }
        }
        Duration::from_nanos(runtime::clock::now().since(start))
    })
}

fn on_std(path: &Path, blocks: u64, durable: bool) -> Duration {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .custom_flags(O_DIRECT)
        .open(path)
        .expect("the file");
    let block = aligned();
    timed(|| {
        for number in 0..blocks {
            file.write_all_at(&block, position(number)).expect("a write");
            if durable {
                file.sync_data().expect("a sync");
            }
        }
    })
}

/// A vector whose start happens to be aligned for direct I/O: large ones are, given a few tries.
fn aligned() -> Vec<u8> {
    let mut kept = Vec::new();
    loop {
        // Sizes around a huge page move the start by the allocator's header.
        let block = Vec::<u8>::with_capacity(BLOCK_BYTES + kept.len() * 16);
        if (block.as_ptr() as usize).is_multiple_of(512) {
            let mut block = block;
            block.resize(BLOCK_BYTES, 7);
            return block;
        }
        assert!(kept.len() < 10_000, "the allocator gives an aligned block in the end");
        kept.push(block);
    }
}

fn segment_append(c: &mut Criterion) {
    let dir = TemporaryDir::new(&std::env::temp_dir(), "weir-bench").expect("a directory");
    type Runner = fn(&Path, u64, bool) -> Duration;
    let runners: [(&str, Runner); 4] = [
        ("io-uring (ours)", ours),
        ("glommio", on_glommio),
        ("tokio-uring", on_tokio_uring),
        ("std", on_std),
    ];
    for durable in [false, true] {
        let mut group =
            c.benchmark_group(if durable { "segment append, disk" } else { "segment append, os" });
        group.throughput(Throughput::Bytes(BLOCK_BYTES as u64)).sample_size(20);
        for (name, runner) in runners {
            let path = fresh(dir.path(), "segment");
            group.bench_with_input(BenchmarkId::from_parameter(name), &path, |b, path| {
                b.iter_custom(|blocks| runner(path, blocks, durable));
            });
            let mut first = vec![0; BLOCK_BYTES];
            let file = std::fs::OpenOptions::new().read(true).open(&path).expect("the file");
            file.read_exact_at(&mut first, 0).expect("a block");
            assert!(first.iter().all(|byte| *byte == 7), "{name} wrote what it was to write");
            println!("  check: {name} left its bytes in the file");
        }
        group.finish();
    }
}

criterion_group!(benches, segment_append);
criterion_main!(benches);
