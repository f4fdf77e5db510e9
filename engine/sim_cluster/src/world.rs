//! One run: a broker, its clients' machines, and what goes wrong.

use crate::members::Told;
use crate::producers::{self, Client, Protocol};
use crate::shared::{BROKER, Outcome, Phase, Shared, TOPICS};
use crate::{members, pipelining, readers, sessions, topics, wake_ups};
use broker::config::Config;
use broker::server::{self, Means};
use runtime::random::Random;
use runtime::simulated::{Disk, Link};
use runtime::world::{MachineNumber, World};
use runtime::{spawn, timer};
use sim::history;
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const CLIENTS: u8 = 2;
/// Times at which something goes wrong.
const TROUBLES: u64 = 14;
const JOURNAL_BYTES: u64 = 512 * 1024;
/// Everybody is to be done so long after the last trouble.
const ENDING: Duration = Duration::from_secs(120);

/// How a life of the broker ended.
type Ended = Rc<RefCell<Option<Result<(), String>>>>;

struct Run {
    world: World,
    random: Random,
    shared: Rc<Shared>,
    broker: MachineNumber,
    disk: Disk,
    clients: Vec<MachineNumber>,
    /// Asks the broker to stop.
    stop: Rc<Cell<bool>>,
    ended: Ended,
    no_directory: Arc<AtomicBool>,
    /// Machines lose power in this run; else programs are only killed, and what acks=1 promises is kept, too.
    has_power_cuts: bool,
}

/// Runs one world to its end; panics at a broken promise.
///
/// # Panics
/// See above.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    let mut run = Run::new(seed);
    run.start_broker();
    run.run_alone("the first topics", topics::make_ours);
    run.start_clients();
    for _ in 0..TROUBLES {
        let ms = 5 + run.random.below(120);
        run.world.run_for(Duration::from_millis(ms));
        run.trouble();
    }
    run.finish();
    let anomalies = history::check(&run.shared.history.borrow());
    assert!(
        anomalies.is_empty(),
        "seed {seed}: {} anomalies, as {}",
        anomalies.len(),
        anomalies[0]
    );
    let mut outcome = run.shared.outcome.borrow().clone();
    outcome.packets_lost = run.world.packets_lost();
    outcome.trace = run.world.trace();
    outcome
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x636c_7573_7465_7200);
        let mut world = World::new(random.next_u64());
        let disk = Disk::default();
        let broker = world.add_machine(BROKER, disk.clone());
        let ip = |number| IpAddr::V4(Ipv4Addr::new(10, 0, 1, number));
        let clients = (1..=CLIENTS).map(|n| world.add_machine(ip(n), Disk::default())).collect();
        Self {
            world,
            shared: Shared::new(random.next_u64()),
            broker,
            disk,
            clients,
            stop: Rc::default(),
            ended: Rc::default(),
            no_directory: Arc::default(),
            has_power_cuts: random.one_in(2),
            random,
        }
    }

    fn start_broker(&mut self) {
        let shards = 1 + self.random.below(3) as usize;
        let settings = [
            ("listeners", "PLAINTEXT://10.0.0.1:9092"),
            ("log.dirs", "/data"),
            ("log.segment.bytes", "1048576"),
            ("weir.tail.cache.bytes", "1048576"),
            ("offsets.topic.num.partitions", "2"),
            ("transaction.state.log.num.partitions", "2"),
            ("group.initial.rebalance.delay.ms", "0"),
            ("group.min.session.timeout.ms", "1"),
            ("auto.create.topics.enable", "false"),
        ];
        let pairs = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut config = Config::from_pairs(pairs).expect("settings that there are");
        // Less than may be set, so that files of the journal are cleaned and begun anew.
        config.journal_bytes = JOURNAL_BYTES;
        let no_directory = Arc::clone(&self.no_directory);
        let means = Means {
            shards,
            open_files: 4096,
            cpus: Vec::new(),
            on_no_directory: Arc::new(move || no_directory.store(true, Ordering::SeqCst)),
        };
        self.stop = Rc::default();
        self.ended = Rc::default();
        let (stop, ended) = (Rc::clone(&self.stop), Rc::clone(&self.ended));
        self.world.start(self.broker, move || async move {
            let asked = async || {
                while !stop.get() {
                    timer::sleep(Duration::from_millis(5)).await;
                }
            };
            let result = server::serve(config, means, asked, |_, _| ()).await;
            *ended.borrow_mut() = Some(result);
        });
    }

    /// Lets the world go on until something is so; panics if that takes too long.
    fn wait(&mut self, what: &str, is_over: impl Fn(&World) -> bool) {
        let until = self.world.now() + ENDING;
        let ended = Rc::clone(&self.ended);
        let has_failed = || ended.borrow().as_ref().and_then(|result| result.clone().err());
        self.world.run_until(until, |world| is_over(world) || has_failed().is_some());
        if let Some(why) = has_failed() {
            panic!("{what}: the broker does not start: {why}");
        }
        assert!(is_over(&self.world), "{what}: no end; {:#?}", self.shared.doing.borrow());
    }

    /// Runs a client by itself, once there is no other on its machine.
    fn run_alone<F: Future<Output = ()> + 'static>(
        &mut self,
        what: &str,
        client: impl FnOnce(Rc<Shared>) -> F + 'static,
    ) {
        let (shared, machine) = (Rc::clone(&self.shared), self.clients[0]);
        self.wait(what, |world| !world.is_running(machine));
        self.world.start(machine, move || client(shared));
        self.wait(what, |world| !world.is_running(machine));
    }

    fn start_clients(&mut self) {
        let told = Rc::new(Told::default());
        for (number, machine) in self.clients.clone().into_iter().enumerate() {
            let (shared, told) = (Rc::clone(&self.shared), Rc::clone(&told));
            let acks: i16 = if self.has_power_cuts { -1 } else { 1 };
            // Counted before they run, so that nobody takes them for done.
            let counts = Rc::clone(&self.shared);
            counts.senders.set(counts.senders.get() + 6);
            counts.workers.set(counts.workers.get() + 2);
            counts.others.set(counts.others.get() + 5);
            self.world.start(machine, move || run_clients(shared, told, number as u64, acks));
        }
    }

    fn trouble(&mut self) {
        for number in 0..self.clients.len() {
            if self.random.one_in(2) {
                self.heal(number);
            }
        }
        // Disks stall now and then, and what is under way then is under way for long.
        let slowness = if self.random.one_in(3) { self.random.below(200) } else { 0 };
        self.disk.set_slowness(slowness);
        match self.random.below(24) {
            0..8 => {
                let is_cut = self.has_power_cuts && self.random.one_in(2);
                self.end_broker(is_cut);
                self.start_broker();
            }
            8..12 => self.stop_and_start(),
            12..15 => {
                let ms = 1 + self.random.below(150);
                self.world.pause(self.broker, Duration::from_millis(ms));
                self.shared.count(|outcome| outcome.pauses += 1);
            }
            15..20 => {
                let client = self.clients[self.random.below(u64::from(CLIENTS)) as usize];
                let broker = self.broker;
                let (there, back) = (self.random.one_in(2), self.random.one_in(2));
                self.world.cut_link(client, broker, there);
                self.world.cut_link(broker, client, back || !there);
                self.shared.count(|outcome| outcome.cut_links += 1);
            }
            20..22 => {
                let client = self.clients[self.random.below(u64::from(CLIENTS)) as usize];
                let most = Duration::from_micros(300 + self.random.below(20_000));
                let bytes_per_ms = 20 + self.random.below(5_000);
                let link = Link { delay: (Duration::from_micros(100), most), bytes_per_ms };
                self.world.set_link(client, self.broker, link);
                self.world.set_link(self.broker, client, link);
            }
            _ => {
                let offset_ms = self.random.below(20_000) as i64 - 10_000;
                let drift_ppm = self.random.below(2_000) as i64 - 1_000;
                self.world.set_clock(self.broker, offset_ms, drift_ppm);
            }
        }
    }

    fn heal(&mut self, number: usize) {
        let client = self.clients[number];
        self.world.cut_link(client, self.broker, false);
        self.world.cut_link(self.broker, client, false);
        self.world.set_link(client, self.broker, Link::default());
        self.world.set_link(self.broker, client, Link::default());
    }

    /// Ends the broker in the middle of whatever it does, perhaps of its start.
    fn end_broker(&mut self, has_no_power: bool) {
        if has_no_power {
            self.world.cut_power(self.broker);
            self.shared.count(|outcome| outcome.power_cuts += 1);
        } else {
            self.world.kill(self.broker);
            self.shared.count(|outcome| outcome.kills += 1);
        }
        let ms = self.random.below(60);
        self.world.run_for(Duration::from_millis(ms));
    }

    fn stop_and_start(&mut self) {
        self.stop.set(true);
        self.shared.count(|outcome| outcome.stops += 1);
        if self.random.one_in(3) {
            let us = self.random.below(20_000);
            self.world.run_for(Duration::from_micros(us));
            self.end_broker(false);
        } else {
            let broker = self.broker;
            self.wait("a stop", |world| !world.is_running(broker));
        }
        self.start_broker();
    }

    /// Nothing goes wrong from here on: everything that was begun ends, and all is read.
    fn finish(&mut self) {
        self.disk.set_slowness(0);
        (0..self.clients.len()).for_each(|number| self.heal(number));
        self.shared.phase.set(Phase::Ending);
        let shared = Rc::clone(&self.shared);
        self.wait("what was begun", |_| shared.senders.get() == 0);
        // What a client gave up may still be on its way.
        self.wait("what was sent", |world| !world.has_last_words());
        self.shared.phase.set(Phase::Draining);
        self.wait("the work", |_| shared.workers.get() == 0);
        self.shared.phase.set(Phase::Reading);
        self.wait("what is to be read", |_| shared.others.get() == 0);
        self.run_alone("who waits for records", wake_ups::are_told);
        self.stop.set(true);
        let broker = self.broker;
        self.wait("the last stop", |world| !world.is_running(broker));
        self.start_broker();
        self.run_alone("the last read", readers::read_all);
        self.shared.history.borrow_mut().drained = true;
        assert!(!self.no_directory.load(Ordering::SeqCst), "no disk failed");
    }
}

/// The clients of one machine.
async fn run_clients(shared: Rc<Shared>, told: Rc<Told>, machine: u64, acks: i16) {
    let first = machine * 100;
    let protocol = if machine == 0 { Protocol::V1 } else { Protocol::V2 };
    let client =
        |number: u64, id: Option<String>| Client::new(&shared, first + number, id, protocol);
    let sends = |future| spawn(counted(Rc::clone(&shared), |shared| &shared.senders, future));
    let works = |future| spawn(counted(Rc::clone(&shared), |shared| &shared.workers, future));
    let does = |future| spawn(counted(Rc::clone(&shared), |shared| &shared.others, future));
    sends(Box::pin(client(1, None).produce_on()) as Task);
    // Two with one id: one of them is a zombie.
    for number in [2, 3] {
        sends(Box::pin(client(number, Some(format!("t-{machine}"))).produce_on()));
    }
    sends(Box::pin(producers::send_plainly(Rc::clone(&shared), first + 4, acks)));
    sends(Box::pin(pipelining::send_ahead(Rc::clone(&shared), first + 11, acks)));
    sends(Box::pin(pipelining::ask_and_not_read(Rc::clone(&shared), first + 12)));
    for number in [5, 6] {
        let id = Some(format!("w-{machine}"));
        works(Box::pin(client(number, id).work_on(machine as i32, number == 6)) as Task);
    }
    let topic = TOPICS[machine as usize];
    does(Box::pin(readers::read_on(Rc::clone(&shared), first + 7, topic, true)) as Task);
    does(Box::pin(readers::read_on(Rc::clone(&shared), first + 8, TOPICS[2], machine == 0)));
    let (topic, process) = (TOPICS[2 - machine as usize], first + 13);
    does(Box::pin(sessions::read_in_sessions(Rc::clone(&shared), process, topic)));
    does(Box::pin(members::take_part(Rc::clone(&shared), told, first + 9)));
    does(Box::pin(topics::change(Rc::clone(&shared), first + 10)));
    while shared.senders.get() + shared.workers.get() + shared.others.get() > 0 {
        timer::sleep(Duration::from_millis(20)).await;
    }
}

type Task = std::pin::Pin<Box<dyn Future<Output = ()>>>;

/// Runs a client, and takes it from those that have not come to their end.
async fn counted(shared: Rc<Shared>, counter: fn(&Shared) -> &Cell<usize>, client: Task) {
    client.await;
    let counter = counter(&shared);
    counter.set(counter.get() - 1);
}
