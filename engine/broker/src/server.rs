//! From settings to serving shards, and back down.

use crate::config::Config;
use crate::image::MetadataImage;
use crate::logging::{info, warning};
use crate::shard::{Message, Node, Shard};
use crate::{connection, topics};
use runtime::mailbox::{MeshSeat, mesh};
use runtime::process::StopSignals;
use runtime::socket::{Listener, Socket};
use runtime::{Io, Runtime, spawn, thread, timer};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use storage::catalog::Catalog;
use storage::data_dir::DataDir;

/// Serves until SIGINT or SIGTERM. `ready` is told the address once clients may connect.
///
/// # Errors
/// Why it could not start, and what to do; one line.
pub fn run(config: Config, ready: impl FnOnce(SocketAddr)) -> Result<(), String> {
    let signals = StopSignals::listen().map_err(|error| format!("signals: {error}"))?;
    let _ = runtime::process::raise_open_files();
    let cpus = thread::cpus();
    let shards = if config.shards == 0 { cpus.len() } else { config.shards };
    let runtime = Runtime::new(Io::Uring).map_err(|error| error.to_string())?;
    let started = runtime.block_on(start(config, shards)).expect("only the twin stops");
    let (node, dir, catalog, mut listeners) = started?;
    let address = listeners[0].local_address().map_err(|error| error.to_string())?;
    let mut seats = mesh::<Message>(shards);
    let image = MetadataImage::new(&catalog, &node.config);
    let mut threads = Vec::new();
    for shard in (1..shards).rev() {
        let seat = seats.pop().expect("one seat a shard");
        let listener = listeners.pop().expect("one listener a shard");
        let (node, image) = (Arc::clone(&node), Arc::clone(&image));
        let name = format!("weir-shard-{shard}");
        let cpu = Some(cpus[shard % cpus.len()]);
        let spawned = thread::spawn(&name, cpu, move || {
            let runtime = Runtime::new(Io::Uring).expect("shard 0 could make one");
            let served = runtime.block_on(async move {
                let shard = begin(node, seat);
                let adopted = shard.adopt(image, false).await.is_ok();
                let acceptor = Rc::new(Acceptor::new(listener));
                STOP.with(|stop| *stop.borrow_mut() = Some(Rc::clone(&acceptor)));
                accept(&shard, &acceptor, adopted).await;
            });
            served.expect("only the twin stops");
        });
        threads.push(spawned.map_err(|error| format!("cannot start a thread: {error}"))?);
    }
    let seat = seats.pop().expect("shard 0 has a seat");
    let listener = listeners.pop().expect("shard 0 has a listener");
    thread::pin_current(cpus[0]);
    let clean = runtime
        .block_on(async {
            topics::install(catalog);
            let shard = begin(Arc::clone(&node), seat);
            let _ = shard.adopt(image, false).await;
            for to in 1..shards {
                shard.call(to, |shard| async move { until_ready(&shard).await }).await;
            }
            let acceptor = Rc::new(Acceptor::new(listener));
            spawn({
                let (shard, acceptor) = (Rc::clone(&shard), Rc::clone(&acceptor));
                async move { accept(&shard, &acceptor, true).await }
            });
            info!(
                "weir {} serves {address} from {} with {shards} shards, leader epoch {}",
                env!("CARGO_PKG_VERSION"),
                node.config.data_dir.display(),
                node.epoch
            );
            ready(address);
            signals.wait().await;
            info!("stopping");
            let mut clean = true;
            acceptor.stop();
            for to in 1..shards {
                clean &= shard.call(to, |shard| async move { stop(&shard).await }).await;
            }
            clean &= stop(&shard).await;
            clean
        })
        .expect("only the twin stops");
    for thread in threads {
        let _ = thread.join();
    }
    if clean {
        let closed = runtime.block_on(dir.close_clean()).expect("only the twin stops");
        closed.map_err(|error| error.to_string())?;
        info!("stopped cleanly");
    } else {
        warning!("stopped; the next start will scan the logs");
    }
    Ok(())
}

type Started = (Arc<Node>, DataDir, Catalog, Vec<Listener>);

async fn start(config: Config, shards: usize) -> Result<Started, String> {
    let said = |error: storage::StorageError| error.to_string();
    let dir = DataDir::open(&config.data_dir, config.node_id).await.map_err(said)?;
    let catalog = Catalog::load(&dir.catalog_path()).await.map_err(said)?;
    let known = |name: &str| {
        name.rsplit_once('-').is_some_and(|(id, index)| {
            let index = index.parse::<i32>().unwrap_or(-1);
            let fits = |topic: &storage::catalog::CatalogTopic| {
                topic.id.to_string() == id && (0..topic.partitions).contains(&index)
            };
            catalog.topics.iter().any(fits)
        })
    };
    for name in dir.remove_orphans(known).map_err(said)? {
        info!("removed {name}: its topic was deleted before the last stop");
    }
    let bind = |address| {
        Listener::bind(address, true).map_err(|error| {
            format!("cannot listen on {address}: {error}; stop what listens there, or choose another --listen")
        })
    };
    // Without SO_REUSEPORT first: another program on the port is an error, not a partner.
    let probe = Listener::bind(config.listen, false).map_err(|error| {
        format!(
            "cannot listen on {}: {error}; stop what listens there, or choose another --listen",
            config.listen
        )
    })?;
    let address = probe.local_address().map_err(|error| error.to_string())?;
    drop(probe);
    let listeners = (0..shards).map(|_| bind(address)).collect::<Result<Vec<_>, _>>()?;
    let (host, port) = config.advertised.clone().unwrap_or_else(|| {
        let ip = address.ip();
        let host = if ip.is_unspecified() { "127.0.0.1".to_owned() } else { ip.to_string() };
        (host, address.port())
    });
    if config.advertised.is_none() && address.ip().is_unspecified() {
        warning!(
            "listening on all addresses but advertising 127.0.0.1; set --advertised.listeners"
        );
    }
    let node = Node {
        host,
        port: if port == 0 { address.port() } else { port },
        cluster_id: dir.superblock().cluster_id.to_string(),
        epoch: dir.leader_epoch(),
        was_clean: dir.was_clean(),
        config,
    };
    Ok((Arc::new(node), dir, catalog, listeners))
}

/// A shard's listener and the connections it let in.
struct Acceptor {
    listener: Listener,
    sockets: RefCell<BTreeMap<u64, Rc<Socket>>>,
}

thread_local! {
    /// The acceptor of a shard other than 0, for `stop`.
    static STOP: RefCell<Option<Rc<Acceptor>>> = const { RefCell::new(None) };
}

impl Acceptor {
    fn new(listener: Listener) -> Self {
        Self { listener, sockets: RefCell::default() }
    }

    fn stop(&self) {
        self.listener.shutdown();
        for socket in self.sockets.borrow().values() {
            socket.shutdown();
        }
    }
}

fn begin(node: Arc<Node>, seat: MeshSeat<Message>) -> Rc<Shard> {
    let shard = Shard::new(node, seat.sit());
    spawn(Rc::clone(&shard).serve_mailbox());
    shard
}

async fn until_ready(shard: &Shard) {
    shard.changed.until(|| shard.ready.get().then_some(())).await;
}

async fn accept(shard: &Rc<Shard>, acceptor: &Rc<Acceptor>, _adopted: bool) {
    shard.ready.set(true);
    shard.changed.notify();
    let mut number = 0;
    loop {
        match acceptor.listener.accept().await {
            Ok(socket) => {
                let socket = Rc::new(socket);
                number += 1;
                acceptor.sockets.borrow_mut().insert(number, Rc::clone(&socket));
                let (shard, acceptor) = (Rc::clone(shard), Rc::clone(acceptor));
                spawn(async move {
                    connection::serve(shard, socket).await;
                    acceptor.sockets.borrow_mut().remove(&number);
                });
            }
            Err(_) if shard.stopping.get() => break,
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => break,
            Err(error) => {
                // Out of descriptors, most likely: others may close theirs.
                warning!("cannot accept a connection: {error}");
                timer::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    // The thread ends when its shard was stopped and has answered.
    shard.changed.until(|| shard.stopped.get().then_some(())).await;
    timer::sleep(Duration::from_millis(1)).await;
}

/// Ends a shard's connections and closes its partitions; true if cleanly.
async fn stop(shard: &Rc<Shard>) -> bool {
    shard.stopping.set(true);
    if let Some(acceptor) = STOP.with(|stop| stop.borrow().clone()) {
        acceptor.stop();
    }
    let clean = shard.close_all().await;
    shard.stopped.set(true);
    shard.changed.notify();
    clean
}
