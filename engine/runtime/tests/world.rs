//! Machines of a world: what their sockets do in good and bad hours, threads of a machine, clocks, and that a seed says all.

use runtime::buffer::SharedBytes;
use runtime::mailbox;
use runtime::receive_buffer::{ReceiveBuffer, ReceivePool};
use runtime::simulated::{Disk, Link};
use runtime::socket::{Listener, Socket};
use runtime::world::{MachineNumber, World};
use runtime::{clock, spawn, threads, timer};
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

const PORT: u16 = 9092;

fn ip(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, number).into()
}

fn two_machines(seed: u64) -> (World, MachineNumber, MachineNumber) {
    let mut world = World::new(seed);
    let server = world.add_machine(ip(1), Disk::default());
    let client = world.add_machine(ip(2), Disk::default());
    (world, server, client)
}

async fn receive(socket: &Socket, bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut pool = ReceivePool::new(64 * 1024, 4);
    let mut buffer = ReceiveBuffer::new(&mut pool);
    let mut received = Vec::new();
    while received.len() < bytes {
        buffer.make_room(1, &mut pool);
        if socket.receive(&mut buffer, 0).await? == 0 {
            break;
        }
        let there = buffer.bytes().len();
        received.extend_from_slice(&buffer.take(there));
    }
    Ok(received)
}

/// Sends back what it receives, to all who connect.
async fn echo() {
    let listener = Listener::bind(SocketAddr::new(ip(1), PORT), false).unwrap();
    loop {
        let socket = listener.accept().await.unwrap();
        spawn(async move {
            let mut pool = ReceivePool::new(64 * 1024, 4);
            let mut buffer = ReceiveBuffer::new(&mut pool);
            loop {
                buffer.make_room(1, &mut pool);
                if socket.receive(&mut buffer, 0).await.unwrap_or(0) == 0 {
                    return;
                }
                let there = buffer.bytes().len();
                if socket.send(&mut vec![buffer.take(there)]).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// What a client that sends so many bytes to `echo` gets back, or the number of its error.
async fn ask(bytes: usize) -> Result<usize, i32> {
    let number = |error: std::io::Error| error.raw_os_error().unwrap_or(0);
    let socket = Rc::new(Socket::connect(SocketAddr::new(ip(1), PORT)).await.map_err(number)?);
    let sent: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8).collect();
    let sender = Rc::clone(&socket);
    let pieces = SharedBytes::copy_of(&sent);
    spawn(async move { drop(sender.send(&mut vec![pieces]).await) });
    let received = receive(&socket, bytes).await.map_err(number)?;
    assert!(received == sent[..received.len()], "bytes come whole and in order");
    Ok(received.len())
}

type Seen = Rc<RefCell<Vec<Result<usize, i32>>>>;

/// A client that asks once, as soon as it runs.
fn start_asking(world: &mut World, client: MachineNumber, bytes: usize) -> Seen {
    let seen: Seen = Rc::default();
    let tells = Rc::clone(&seen);
    world.start(client, move || async move {
        let answer = ask(bytes).await;
        tells.borrow_mut().push(answer);
    });
    seen
}

#[test]
fn bytes_come_whole_and_in_order_and_a_seed_says_all() {
    let run = |seed| {
        let (mut world, server, client) = two_machines(seed);
        world.start(server, echo);
        let slow = Link { delay: (Duration::ZERO, Duration::from_millis(5)), bytes_per_ms: 40_000 };
        world.set_link(client, server, slow);
        world.run_for(Duration::from_millis(1));
        let seen = start_asking(&mut world, client, 2_000_000);
        world.run_for(Duration::from_secs(20));
        assert_eq!(*seen.borrow(), [Ok(2_000_000)]);
        assert!(!world.is_running(client) && world.is_running(server));
        (world.trace(), world.now())
    };
    for seed in 0..8 {
        assert_eq!(run(seed), run(seed));
        assert_ne!(run(seed).0, run(seed + 1).0);
    }
}

#[test]
fn nobody_listens_nobody_answers_and_a_link_that_is_cut_for_a_while() {
    let (mut world, server, client) = two_machines(3);
    let refused = start_asking(&mut world, client, 10);
    world.run_for(Duration::from_secs(1));
    assert_eq!(*refused.borrow(), [Err(111)], "connection refused");
    world.cut_power(server);
    let silent = start_asking(&mut world, client, 10);
    world.run_for(Duration::from_secs(100));
    assert!(silent.borrow().is_empty(), "a machine without power refuses nothing");
    world.run_for(Duration::from_secs(100));
    assert_eq!(*silent.borrow(), [Err(110)], "timed out");
    world.start(server, echo);
    world.run_for(Duration::from_millis(10));
    // Half of the way, in each direction: what was sent comes later, once.
    for (from, to) in [(server, client), (client, server)] {
        let seen = start_asking(&mut world, client, 300_000);
        world.run_for(Duration::from_micros(900));
        world.cut_link(from, to, true);
        world.run_for(Duration::from_secs(30));
        assert!(seen.borrow().is_empty());
        world.cut_link(from, to, false);
        world.run_for(Duration::from_secs(30));
        assert_eq!(*seen.borrow(), [Ok(300_000)]);
    }
    assert!(world.packets_lost() > 0);
}

#[test]
fn a_killed_process_is_heard_of_and_a_machine_without_power_is_not() {
    for seed in 0..20 {
        let (mut world, server, client) = two_machines(seed);
        let answers = Rc::new(Cell::new(0));
        let tells = Rc::clone(&answers);
        let silent = || async move {
            let listener = Listener::bind(SocketAddr::new(ip(1), PORT), false).unwrap();
            let socket = listener.accept().await.unwrap();
            timer::sleep(Duration::from_secs(3600)).await;
            drop(socket);
        };
        world.start(server, silent);
        world.run_for(Duration::from_millis(1));
        world.start(client, move || async move {
            let socket = Socket::connect(SocketAddr::new(ip(1), PORT)).await.unwrap();
            let ended = receive(&socket, 1).await;
            tells.set(if ended.is_ok() { 1 } else { 2 });
        });
        world.run_for(Duration::from_secs(1));
        assert_eq!(answers.get(), 0);
        if seed % 2 == 0 {
            world.kill(server);
            world.run_for(Duration::from_secs(1));
            assert_eq!(answers.get(), 1, "its kernel closed the connection");
        } else {
            world.cut_power(server);
            world.start(server, silent);
            world.run_for(Duration::from_secs(60));
            assert_eq!(answers.get(), 0, "half open: nobody said a word");
        }
    }
}

#[test]
fn what_a_machine_forgot_is_reset_once_something_comes_for_it() {
    let (mut world, server, client) = two_machines(5);
    world.start(server, echo);
    world.run_for(Duration::from_millis(1));
    let seen: Seen = Rc::default();
    let tells = Rc::clone(&seen);
    world.start(client, move || async move {
        let socket = Socket::connect(SocketAddr::new(ip(1), PORT)).await.unwrap();
        timer::sleep(Duration::from_secs(10)).await;
        assert!(!socket.has_hung_up());
        socket.send(&mut vec![SharedBytes::copy_of(b"hello")]).await.unwrap();
        let answer = receive(&socket, 5).await;
        tells.borrow_mut().push(answer.map(|b| b.len()).map_err(|e| e.raw_os_error().unwrap()));
    });
    world.run_for(Duration::from_secs(5));
    world.cut_power(server);
    world.start(server, echo);
    world.run_for(Duration::from_secs(20));
    assert_eq!(*seen.borrow(), [Err(104)], "connection reset");
}

#[test]
fn who_does_not_read_holds_up_the_sender() {
    let (mut world, server, client) = two_machines(8);
    let taken = Rc::new(Cell::new(0));
    world.start(server, || async {
        let listener = Listener::bind(SocketAddr::new(ip(1), PORT), false).unwrap();
        let socket = listener.accept().await.unwrap();
        timer::sleep(Duration::from_secs(50)).await;
        assert_eq!(receive(&socket, 20_000_000).await.unwrap().len(), 20_000_000);
    });
    world.run_for(Duration::from_millis(1));
    let tells = Rc::clone(&taken);
    world.start(client, move || async move {
        let socket = Socket::connect(SocketAddr::new(ip(1), PORT)).await.unwrap();
        for _ in 0..200 {
            socket.send(&mut vec![SharedBytes::copy_of(&[7; 100_000])]).await.unwrap();
            tells.set(tells.get() + 100_000);
        }
        while socket.unacknowledged_bytes() > 0 {
            timer::sleep(Duration::from_millis(1)).await;
        }
    });
    world.run_for(Duration::from_secs(40));
    assert!(taken.get() < 2_000_000, "{} bytes were taken", taken.get());
    world.run_for(Duration::from_secs(40));
    assert_eq!(taken.get(), 20_000_000);
    assert!(!world.is_running(client) && !world.is_running(server));
}

#[test]
fn threads_of_a_machine_wake_each_other() {
    const MESSAGES: u64 = 3_000;
    let (mut world, server, _) = two_machines(9);
    let ended = Rc::new(Cell::new(false));
    let tells = Rc::clone(&ended);
    world.start(server, move || async move {
        let mut seats = mailbox::mesh::<u64>(2);
        let (second, first) = (seats.pop().unwrap(), seats.pop().unwrap());
        let echo = threads::start("echo", None, move || async move {
            let mailbox = second.sit();
            for _ in 0..MESSAGES {
                let message = mailbox.receive().await;
                mailbox.send(0, message + 1);
            }
            timer::sleep(Duration::from_millis(5)).await;
        });
        let mailbox = first.sit();
        for message in 0..MESSAGES {
            mailbox.until_room().await;
            mailbox.send(1, message);
            if message % 3 == 0 {
                timer::sleep(Duration::from_micros(200)).await;
            }
        }
        for expected in 1..=MESSAGES {
            assert_eq!(mailbox.receive().await, expected);
        }
        echo.unwrap().join().await;
        tells.set(true);
    });
    world.run_for(Duration::from_secs(100));
    assert!(ended.get() && !world.is_running(server));
}

#[test]
fn a_pause_stops_a_machine_and_clocks_run_as_they_are_set() {
    let (mut world, server, client) = two_machines(4);
    let times: Rc<RefCell<Vec<(u64, i64)>>> = Rc::default();
    let tells = Rc::clone(&times);
    world.set_clock(server, 3_600_000, 10_000);
    world.start(server, move || async move {
        loop {
            timer::sleep(Duration::from_secs(1)).await;
            tells.borrow_mut().push((clock::now().0, clock::unix_ms()));
        }
    });
    world.start(client, || timer::sleep(Duration::from_secs(1000)));
    world.run_for(Duration::from_secs(99));
    let seen = times.take();
    assert!((98..=100).contains(&seen.len()), "{} seconds of its own", seen.len());
    let (ns, unix_ms) = *seen.last().unwrap();
    assert!(unix_ms >= 1_700_000_000_000 + 3_600_000 + ns as i64 / 1_000_000 - 1);
    world.pause(server, Duration::from_secs(50));
    world.run_for(Duration::from_secs(49));
    assert!(times.borrow().is_empty());
    world.set_clock(server, 0, -10_000);
    world.run_for(Duration::from_secs(11));
    let (later, _) = *times.borrow().last().expect("it goes on");
    assert!(later > ns + 49_000_000_000 && (9..=11).contains(&times.borrow().len()));
}
