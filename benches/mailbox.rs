//! What does it cost to ask another shard and get the answer, when it sleeps?

use criterion::{Criterion, criterion_group, criterion_main};
use runtime::{Io, Runtime, mailbox, thread};

fn hop(c: &mut Criterion) {
    let mut seats = mailbox::mesh::<u64>(2);
    let (second, first) = (seats.pop().expect("two"), seats.pop().expect("two"));
    let cpus = thread::cpus();
    let other = cpus[1 % cpus.len()];
    let echo = thread::spawn("echo", Some(other), move || {
        let runtime = Runtime::new(Io::Uring).expect("io_uring");
        let served = runtime.block_on(async {
            let mailbox = second.sit();
            loop {
                let message = mailbox.receive().await;
                mailbox.send(0, message);
                if message == u64::MAX {
                    // One more turn, so that the answer leaves.
                    runtime::timer::sleep(std::time::Duration::from_millis(5)).await;
                    return;
                }
            }
        });
        served.expect("only the twin stops");
    });
    let runtime = Runtime::new(Io::Uring).expect("io_uring");
    let mailbox = runtime.block_on(async { first.sit() }).expect("only the twin stops");
    let mut asked = 0u64;
    let mut ask = |message| {
        let answer = runtime.block_on(async {
            mailbox.send(1, message);
            mailbox.receive().await
        });
        assert_eq!(answer.expect("only the twin stops"), message);
        asked += 1;
    };
    c.bench_function("mailbox/round trip between two shards", |b| b.iter(|| ask(7)));
    ask(u64::MAX);
    println!("  check: {asked} messages came back as they went");
    echo.expect("a thread").join().expect("no panic");
}

criterion_group!(benches, hop);
criterion_main!(benches);
