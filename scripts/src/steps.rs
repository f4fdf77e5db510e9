//! Running commands and saying so.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

pub(crate) type Done = Result<(), String>;

/// The checkout's top.
pub(crate) fn top() -> PathBuf {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR"));
    scripts.parent().expect("scripts lies in the checkout").to_owned()
}

/// Runs a command at the checkout's top with its output shown.
pub(crate) fn run(program: &str, args: &[&str]) -> Done {
    let shown = format!("{program} {}", args.join(" "));
    println!("==> {shown}");
    let start = Instant::now();
    let status = Command::new(program)
        .args(args)
        .current_dir(top())
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("{shown}: {error}"))?;
    if !status.success() {
        return Err(format!("{shown} failed: {status}"));
    }
    println!("    {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Lets a script be run.
pub(crate) fn make_executable(script: &Path) -> Done {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(script, std::fs::Permissions::from_mode(0o755))
        .map_err(|error| format!("{}: {error}", script.display()))
}

/// Installs one of Debian's packages, where that can be done.
pub(crate) fn install_debian(package: &str) -> bool {
    let install = format!("apt-get install -y {package}");
    works("sh", &["-c", &format!("{install} || {{ apt-get update && {install}; }}")])
}

/// Runs a command quietly; true if it succeeded.
pub(crate) fn works(program: &str, args: &[&str]) -> bool {
    let silent = Command::new(program)
        .args(args)
        .current_dir(top())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    silent.is_ok_and(|status| status.success())
}

/// The Rust files below a directory, in order.
pub(crate) fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

pub(crate) fn free_address() -> Result<String, String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    listener.local_addr().map(|address| address.to_string()).map_err(|error| error.to_string())
}
