//! A server of someone else, started in a directory of its own, and ended.

use crate::steps::{Done, top};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Of a topic that is made by being written to.
pub(crate) const PARTITIONS: &str = "12";

/// Starts a broker that listens on `address` at last, in an empty directory of its own, and runs `body` with it.
/// What it says goes into a file there, which is kept when something fails.
pub(crate) fn with_started(
    name: &str,
    address: &str,
    home: &Path,
    command: &mut Command,
    body: impl FnOnce(&str, u32, &Path) -> Done,
) -> Done {
    let log = std::fs::File::create(home.join("server.log")).map_err(|error| error.to_string())?;
    let server = command
        .stdout(log.try_clone().map_err(|error| error.to_string())?)
        .stderr(log)
        .spawn()
        .map_err(|error| format!("{name}: {error}"))?;
    let server = Server(server);
    let began = Instant::now();
    while TcpStream::connect(address).is_err() {
        if began.elapsed() > Duration::from_secs(60) {
            return Err(format!("{name} does not start; see {}", home.display()));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let done = body(address, server.0.id(), home);
    drop(server);
    if done.is_ok() {
        let _ = std::fs::remove_dir_all(home);
    }
    done
}

/// An empty directory for a broker.
pub(crate) fn empty_home() -> Result<PathBuf, String> {
    let home = top().join("target/bench");
    let _ = std::fs::remove_dir_all(&home);
    std::fs::create_dir_all(&home).map_err(|error| error.to_string())?;
    Ok(home)
}

/// A broker that is killed when it is not needed any more.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
