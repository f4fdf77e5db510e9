//! What the machine is, as far as /proc and /sys tell.

use crate::judge::result::Environment;
use std::path::Path;
use std::process::Command;

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn field(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_default().trim_start_matches([' ', '\t', ':']).to_owned()
}

/// Looks once; `data` is where the broker writes, if it is here.
pub(crate) fn look(data: Option<&Path>) -> Environment {
    let cpuinfo = read("/proc/cpuinfo");
    let meminfo = field(&read("/proc/meminfo"), "MemTotal");
    let kilobytes = meminfo.split_whitespace().next().and_then(|kb| kb.parse::<u64>().ok());
    let virtual_machine = field(&cpuinfo, "flags").split(' ').any(|flag| flag == "hypervisor");
    let load = read("/proc/loadavg");
    let here = data.map(Path::to_owned).or_else(|| std::env::current_dir().ok());
    let (file_system, disk) = here.map(|path| disk_of(&path)).unwrap_or_default();
    let unknown = |text: String| if text.is_empty() { "not told".to_owned() } else { text };
    Environment {
        cpu: field(&cpuinfo, "model name"),
        cores: runtime::thread::cpus().len(),
        memory_bytes: kilobytes.unwrap_or(0) * 1024,
        kernel: read("/proc/sys/kernel/osrelease"),
        machine: if virtual_machine { "virtual" } else { "physical, or does not tell" }.to_owned(),
        clock_source: unknown(read(
            "/sys/devices/system/clocksource/clocksource0/current_clocksource",
        )),
        governor: unknown(read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        file_system,
        disk,
        load_before: load.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0),
        stolen_share: 0.0,
    }
}

/// File system with its options, and disk model, under a path: the longest mount point that holds it.
fn disk_of(path: &Path) -> (String, String) {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mounts = read("/proc/self/mounts");
    let holding = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (device, point) = (words.next()?, words.next()?);
        let (kind, options) = (words.next()?, words.next()?);
        path.starts_with(point).then_some((point.len(), device, kind, options))
    });
    let Some((_, device, kind, options)) = holding.max_by_key(|(long, ..)| *long) else {
        return Default::default();
    };
    let name = device.rsplit('/').next().unwrap_or_default();
    // A partition's disk is named without its number.
    let whole = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let model = [name, whole]
        .iter()
        .map(|name| read(&format!("/sys/block/{name}/device/model")))
        .find(|model| !model.is_empty());
    (format!("{kind} ({options})"), model.map_or(device.to_owned(), |m| format!("{device} {m}")))
}

/// The command line, the program by its name alone: where it lies tells nobody anything.
pub(crate) fn command() -> Vec<String> {
    let own = std::iter::once(env!("CARGO_PKG_NAME").to_owned());
    own.chain(std::env::args().skip(1)).collect()
}

/// The commit of the checkout that this program was built in, while it still stands there.
pub(crate) fn commit() -> Option<String> {
    let program = std::env::current_exe().ok()?;
    let dir = program.parent()?;
    let git = |args: &[&str]| {
        let output = Command::new("git").arg("-C").arg(dir).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let changed = git(&[
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        // What runs leave behind is no change of the program.
        ":(top)",
        ":(top,exclude)results",
    ])?;
    Some(if changed.is_empty() { commit } else { format!("{commit}+") })
}
