//! The runtime through its door: real ring, real sockets and files, threads, and the twin.
use runtime::buffer::{ChunkWriter, SharedBytes};
use runtime::file::{File, OpenOptions};
use runtime::receive_buffer::{ReceiveBuffer, ReceivePool};
use runtime::simulated::{Disk, Simulation};
use runtime::socket::{Listener, Socket};
use runtime::{Io, Runtime, Stopped, clock, fs, mailbox, spawn, timer};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const RW: OpenOptions = OpenOptions { create: true, write: true, direct: true };

fn ring() -> Runtime {
    Runtime::new(Io::Uring).expect("this machine has io_uring")
}

#[test]
fn sockets_echo_in_order_and_end_by_shutdown() {
    ring()
        .block_on(async {
            let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), true).unwrap();
            let address = listener.local_address().unwrap();
            spawn(async move {
                let socket = listener.accept().await.unwrap();
                let mut pool = ReceivePool::new(32 * 1024, 8);
                let mut buffer = ReceiveBuffer::new(&mut pool);
                let mut pieces = Vec::new();
                loop {
                    buffer.make_room(1, &mut pool);
                    if socket.receive(&mut buffer, 0).await.unwrap_or(0) == 0 {
                        return;
                    }
                    let bytes = buffer.bytes().len();
                    pieces.push(buffer.take(bytes));
                    socket.send(&mut pieces).await.unwrap();
                }
            });
            let socket = Rc::new(Socket::connect(address).await.unwrap());
            let sent: Vec<u8> = (0..3_000_000u32).map(|i| (i % 253) as u8).collect();
            let sender = Rc::clone(&socket);
            let bytes = SharedBytes::copy_of(&sent);
            spawn(async move {
                let middle = bytes.slice(100..2_000_000);
                let mut pieces =
                    vec![bytes.slice(0..100), middle, bytes.slice(2_000_000..3_000_000)];
                sender.send(&mut pieces).await.unwrap();
            });
            let mut pool = ReceivePool::new(64 * 1024, 4);
            let mut buffer = ReceiveBuffer::new(&mut pool);
            let mut received = Vec::new();
            while received.len() < sent.len() {
                buffer.make_room(1, &mut pool);
                assert!(socket.receive(&mut buffer, 0).await.unwrap() > 0);
                let bytes = buffer.bytes().len();
                received.extend_from_slice(&buffer.take(bytes));
            }
            assert!(received == sent);
            let closer = Rc::clone(&socket);
            spawn(async move { closer.shutdown() });
            buffer.make_room(1, &mut pool);
            assert_eq!(socket.receive(&mut buffer, 0).await.unwrap(), 0);
        })
        .unwrap();
}

async fn write_then_read(path: &Path) {
    let file = File::open(path, RW).unwrap();
    file.allocate(0, 64 * 1024).await.unwrap();
    assert_eq!(file.len().unwrap(), 64 * 1024);
    let mut writer = ChunkWriter::with_capacity(8192);
    writer.append(&[7; 5000]);
    file.write_at(&mut vec![writer.disk_range(0..8192)], 4096, true).await.unwrap();
    let (read, back) = file.read_at(ChunkWriter::with_capacity(16384), 4096, 8192).await;
    assert_eq!(read.unwrap(), 8192);
    assert!(back.bytes()[..5000].iter().all(|&b| b == 7), "what was written");
    assert!(back.bytes()[5000..].iter().all(|&b| b == 0), "padding");
    file.set_len(9096).unwrap();
    fs::replace(&path.with_extension("small"), b"whole").await.unwrap();
    assert_eq!(fs::read(&path.with_extension("small")).await.unwrap(), b"whole");
}

#[test]
fn files_do_the_same_on_the_ring_and_in_the_twin() {
    let dir = fs::TemporaryDir::new(&std::env::temp_dir(), "weir-runtime").unwrap();
    ring().block_on(write_then_read(&dir.path().join("f"))).unwrap();
    let twin = Runtime::new(Io::Simulated(Simulation::new(Disk::default(), 1))).unwrap();
    twin.block_on(async {
        fs::create_dir_all(Path::new("/d")).unwrap();
        write_then_read(Path::new("/d/f")).await;
    })
    .unwrap();
}

#[test]
fn a_full_disk_and_a_missing_file_are_errors_with_their_numbers() {
    ring()
        .block_on(async {
            let error = File::open(Path::new("/nonexistent/x"), RW).err().unwrap();
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
            let full = OpenOptions { create: false, write: true, direct: false };
            let file = File::open(Path::new("/dev/full"), full).unwrap();
            let mut writer = ChunkWriter::with_capacity(4096);
            writer.append(b"x");
            let result = file.write_at(&mut vec![writer.disk_range(0..1)], 0, false).await;
            assert_eq!(result.unwrap_err().raw_os_error(), Some(28));
        })
        .unwrap();
}

#[test]
fn messages_wake_a_sleeping_shard_and_none_is_lost() {
    const MESSAGES: u64 = 20_000;
    let mut seats = mailbox::mesh::<u64>(2);
    let (second, first) = (seats.pop().unwrap(), seats.pop().unwrap());
    let echo = runtime::thread::spawn("echo", None, move || {
        ring()
            .block_on(async {
                let mailbox = second.sit();
                for _ in 0..MESSAGES {
                    let message = mailbox.receive().await;
                    mailbox.send(0, message + 1);
                }
                timer::sleep(Duration::from_millis(5)).await;
            })
            .unwrap();
    })
    .unwrap();
    ring()
        .block_on(async {
            let mailbox = first.sit();
            timer::sleep(Duration::from_millis(20)).await;
            let sender = Rc::clone(&mailbox);
            spawn(async move {
                for message in 0..MESSAGES {
                    sender.until_room().await;
                    sender.send(1, message);
                    if message % 5000 == 0 {
                        timer::sleep(Duration::from_millis(2)).await;
                    }
                }
            });
            for expected in 1..=MESSAGES {
                assert_eq!(mailbox.receive().await, expected);
            }
        })
        .unwrap();
    echo.join().unwrap();
}

#[test]
fn a_shard_that_waits_for_room_sleeps_until_the_receiver_makes_some() {
    const MESSAGES: u64 = 5_000;
    let mut seats = mailbox::mesh::<u64>(2);
    let (second, first) = (seats.pop().unwrap(), seats.pop().unwrap());
    let receiver = runtime::thread::spawn("receiver", None, move || {
        ring()
            .block_on(async {
                let mailbox = second.sit();
                for expected in 0..MESSAGES {
                    if expected % 1_000 == 0 {
                        timer::sleep(Duration::from_millis(30)).await;
                    }
                    assert_eq!(mailbox.receive().await, expected);
                }
            })
            .unwrap();
    })
    .unwrap();
    let sender = runtime::thread::spawn("sender", None, move || {
        ring()
            .block_on(async {
                let mailbox = first.sit();
                // Beyond the queue: what waits here must go out, with nothing else to wake us.
                for message in 0..MESSAGES {
                    mailbox.send(1, message);
                }
                let before = runtime::io_counters().enters;
                mailbox.until_room().await;
                let turns = runtime::io_counters().enters - before;
                assert!(turns < 20_000, "waits asleep, not in {turns} turns");
            })
            .unwrap();
    })
    .unwrap();
    until_finished([sender, receiver]);
}

#[test]
fn a_message_that_comes_while_a_shard_lies_down_is_not_slept_through() {
    // One at a time, so that both lie down before each.
    const ROUNDS: u64 = 30_000;
    let seats = mailbox::mesh::<u64>(2);
    let shards = seats.into_iter().enumerate().map(|(own, seat)| {
        let run = move || {
            let rounds = async {
                let mailbox = seat.sit();
                for round in 0..ROUNDS {
                    if own == 0 {
                        mailbox.send(1, round);
                    }
                    assert_eq!(mailbox.receive().await, round);
                    if own == 1 {
                        mailbox.send(0, round);
                    }
                }
                // The last one is on its way.
                timer::sleep(Duration::from_millis(5)).await;
            };
            ring().block_on(rounds).unwrap();
        };
        runtime::thread::spawn("ping", None, run).unwrap()
    });
    until_finished(shards.collect::<Vec<_>>().try_into().unwrap());
}

/// Waits for two threads, which a lost wake-up would keep for ever.
fn until_finished(threads: [std::thread::JoinHandle<()>; 2]) {
    let watched = ring().block_on(async {
        for _ in 0..1200 {
            timer::sleep(Duration::from_millis(25)).await;
            if threads.iter().all(std::thread::JoinHandle::is_finished) {
                break;
            }
        }
    });
    watched.unwrap();
    assert!(threads.iter().all(std::thread::JoinHandle::is_finished), "a wake-up was lost");
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn dropping_a_pending_receive_keeps_its_memory_until_the_kernel_is_done() {
    ring()
        .block_on(async {
            let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
            let socket = Socket::connect(listener.local_address().unwrap()).await.unwrap();
            let peer = listener.accept().await.unwrap();
            {
                let mut pool = ReceivePool::new(64 * 1024, 1);
                let mut buffer = ReceiveBuffer::new(&mut pool);
                let mut receive = Box::pin(socket.receive(&mut buffer, 0));
                let polled = futures_poll_once(receive.as_mut()).await;
                assert!(polled.is_none());
                // It must reach the kernel before its socket's number can belong to another.
                let before = runtime::io_counters().enters;
                drop(receive);
                assert!(runtime::io_counters().enters > before, "submitted when dropped");
            }
            peer.send(&mut vec![SharedBytes::copy_of(&[9; 4096])]).await.unwrap();
            timer::sleep(Duration::from_millis(5)).await;
            drop(socket);
            timer::sleep(Duration::from_millis(5)).await;
        })
        .unwrap();
}

async fn futures_poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(move |cx| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut future).poll(cx) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[test]
fn the_twins_time_is_virtual_and_a_fired_timer_never_touches_the_next() {
    let twin = Runtime::new(Io::Simulated(Simulation::new(Disk::default(), 3))).unwrap();
    let fired = Rc::new(Cell::new(0));
    let seen = Rc::clone(&fired);
    twin.block_on(async move {
        let start = clock::now();
        for hours in 1..=50u64 {
            let fired = Rc::clone(&fired);
            spawn(async move {
                timer::sleep(Duration::from_secs(3600 * hours)).await;
                fired.set(fired.get() + 1);
            });
        }
        for _ in 0..1000 {
            timer::sleep(Duration::from_secs(360)).await;
        }
        assert_eq!(clock::now().since(start) / 1_000_000_000, 360_000);
    })
    .unwrap();
    assert_eq!(seen.get(), 50);
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_may_lose_the_rest() {
    let path = Path::new("/d/f");
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..300 {
        let disk = Disk::default();
        let twin = Runtime::new(Io::Simulated(Simulation::new(disk.clone(), seed))).unwrap();
        twin.block_on(async {
            fs::create_dir_all(Path::new("/d")).unwrap();
            fs::sync_dir(Path::new("/")).await.unwrap();
            let file = File::open(path, RW).unwrap();
            let mut writer = ChunkWriter::with_capacity(8192);
            writer.append(&[1; 8192]);
            file.write_at(&mut vec![writer.disk_range(0..4096)], 0, false).await.unwrap();
            file.sync(true).await.unwrap();
            fs::sync_dir(Path::new("/d")).await.unwrap();
            file.write_at(&mut vec![writer.disk_range(4096..8192)], 4096, false).await.unwrap();
        })
        .unwrap();
        drop(twin);
        disk.power_cut(seed);
        let twin = Runtime::new(Io::Simulated(Simulation::new(disk, seed))).unwrap();
        let bytes = twin.block_on(async { fs::read(path).await.unwrap() }).unwrap();
        assert!(bytes.len() >= 4096 && bytes[..4096].iter().all(|&b| b == 1), "seed {seed}");
        let whole = bytes.len() == 8192 && bytes[4096..].iter().all(|&b| b == 1);
        if whole { kept += 1 } else { lost += 1 }
    }
    assert!(lost > 5 && kept > 5, "both happen: lost {lost}, kept {kept}");
}

#[test]
fn the_machine_stops_at_the_asked_step() {
    let simulation = Simulation::new(Disk::default(), 1).stopping_at(3);
    let twin = Runtime::new(Io::Simulated(simulation)).unwrap();
    let result = twin.block_on(async {
        fs::create_dir_all(Path::new("/d")).unwrap();
        let file = File::open(Path::new("/d/f"), RW).unwrap();
        for _ in 0..10 {
            file.sync(true).await.unwrap();
        }
    });
    assert_eq!(result, Err(Stopped));
}
