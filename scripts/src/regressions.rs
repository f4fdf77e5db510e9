//! The guard against regressions: work counted exactly and compared with what is committed. Counts do not
//! know how busy a machine is; times do, so they are only compared within one run, as advice.

use crate::bench::median;
use crate::steps::{self, Done, top, works};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const BASELINE: &str = "benches/baseline.toml";
const UPDATE: &str = "cargo xtask bench --update";
/// How often a step runs under callgrind.
const ROUNDS: u64 = 100;

/// What was counted: by kind and name.
type Counts = BTreeMap<String, f64>;

struct Measured {
    /// What instruction counts depend on besides the code.
    machine: String,
    /// Instructions of each hot step, once.
    instructions: Counts,
    /// What the broker did per 1,000 records of each scripted load.
    broker: Counts,
}

/// How far a count may be above the one committed: a share of it, and so much more.
fn tolerance(name: &str) -> (f64, f64) {
    let what = name.rsplit(": ").next().unwrap_or(name);
    match what {
        "allocations" => (0.02, 0.5),
        // Completions that come together are reaped together: that is chance.
        "enters" => (0.5, 0.5),
        "submissions" | "writes" | "syncs" | "KB written" => (0.06, 0.5),
        _ => (0.03, 0.0),
    }
}

/// Compares with what is committed.
pub(crate) fn check() -> Done {
    println!("==> bench --check");
    let measured = measure()?;
    let text = std::fs::read_to_string(top().join(BASELINE))
        .map_err(|error| format!("{BASELINE}: {error}; {UPDATE} writes it"))?;
    let committed = read(&text)?;
    let same_machine = committed.machine == measured.machine;
    let mut worse = compare("broker, per 1,000 records", &committed.broker, &measured.broker);
    let slower = compare("instructions", &committed.instructions, &measured.instructions);
    if same_machine {
        worse.extend(slower);
    } else {
        println!(
            "    instructions are shown, not judged: the baseline is of {:?}, this machine is {:?}",
            committed.machine, measured.machine
        );
    }
    if worse.is_empty() {
        return Ok(());
    }
    Err(format!(
        "more work than {BASELINE} says: {}. If it is worth that, run {UPDATE} and say why in the \
         commit",
        worse.join("; ")
    ))
}

/// Writes the baseline anew, and shows before and after.
pub(crate) fn update() -> Done {
    let measured = measure()?;
    if let Ok(text) = std::fs::read_to_string(top().join(BASELINE)) {
        let committed = read(&text)?;
        compare("broker, per 1,000 records", &committed.broker, &measured.broker);
        compare("instructions", &committed.instructions, &measured.instructions);
    }
    let table = |counts: &Counts| -> String {
        counts.iter().map(|(name, count)| format!("{name:?} = {count:.3}\n")).collect()
    };
    let text = format!(
        "# What the hot steps and the broker's scripted loads cost. Written by `{UPDATE}`, read by\n\
         # `cargo xtask bench --check`, which fails if a count grew beyond its tolerance.\n\n\
         # Instruction counts are judged on such a machine, and shown on others.\n\
         machine = {:?}\n\n[instructions]\n{}\n[broker]\n{}",
        measured.machine,
        table(&measured.instructions),
        table(&measured.broker)
    );
    std::fs::write(top().join(BASELINE), text).map_err(|error| format!("{BASELINE}: {error}"))?;
    println!("    {BASELINE} written");
    Ok(())
}

fn read(text: &str) -> Result<Measured, String> {
    let table: toml::Table = text.parse().map_err(|error| format!("{BASELINE}: {error}"))?;
    let counts = |key: &str| -> Result<Counts, String> {
        let found = table.get(key).and_then(toml::Value::as_table);
        let found = found.ok_or_else(|| format!("{BASELINE}: no [{key}]"))?;
        let count =
            |(name, value): (&String, &toml::Value)| Some((name.clone(), value.as_float()?));
        found.iter().map(count).collect::<Option<_>>().ok_or(format!("{BASELINE}: not a number"))
    };
    let machine = table.get("machine").and_then(toml::Value::as_str).unwrap_or_default();
    Ok(Measured {
        machine: machine.to_owned(),
        instructions: counts("instructions")?,
        broker: counts("broker")?,
    })
}

/// Shows both; what got worse, in words.
fn compare(title: &str, committed: &Counts, measured: &Counts) -> Vec<String> {
    println!("    {title}: committed, now");
    let mut worse = Vec::new();
    for (name, now) in measured {
        let Some(before) = committed.get(name) else {
            println!("    {:>12} {now:>12.2}  {name}", "new");
            worse.push(format!("{name} is not in the baseline"));
            continue;
        };
        let (share, more) = tolerance(name);
        let allowed = share * before + more;
        let verdict = if *now > before + allowed {
            worse.push(format!("{name}: {before:.2} became {now:.2}"));
            "WORSE"
        } else if *now < before - allowed {
            "better"
        } else {
            ""
        };
        println!("    {before:>12.2} {now:>12.2}  {name} {verdict}");
    }
    for name in committed.keys().filter(|name| !measured.contains_key(*name)) {
        worse.push(format!("{name} is not measured any more"));
    }
    worse
}

/// `steps`, and `counts` beside it.
fn steps_program() -> Result<PathBuf, String> {
    let build = ["build", "--release", "--quiet", "-p", "benches", "--bin", "steps"];
    steps::run("cargo", &[&build[..], &["--bin", "counts"]].concat())?;
    Ok(top().join("target/release/steps"))
}

fn measure() -> Result<Measured, String> {
    if !works("valgrind", &["--version"]) && !steps::install_debian("valgrind") {
        return Err("no valgrind: install it; it counts instructions".into());
    }
    let program = steps_program()?;
    let mut broker = Counts::new();
    for line in said(&mut Command::new(program.with_file_name("counts")))?.0.lines() {
        let Some((name, count)) = line.split_once('\t') else { continue };
        broker.insert(name.to_owned(), count.parse().map_err(|_| format!("not a count: {line}"))?);
    }
    let mut instructions = Counts::new();
    for name in said(Command::new(&program).arg("list"))?.0.lines() {
        instructions.insert(name.to_owned(), instructions_of(&program, name)?);
    }
    if broker.is_empty() || instructions.is_empty() {
        return Err("nothing was counted".into());
    }
    Ok(Measured { machine: machine()?, instructions, broker })
}

/// What a command wrote: standard output and errors.
fn said(command: &mut Command) -> Result<(String, String), String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, errors) = (text(&output.stdout), text(&output.stderr));
    if output.status.success() { Ok((out, errors)) } else { Err(format!("{errors}{out}")) }
}

fn instructions_of(program: &Path, name: &str) -> Result<f64, String> {
    // Collected from one call of `counted` with one round, and one with all of them.
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*counted*"])
        .arg(program)
        .args(["step", name, &ROUNDS.to_string()]);
    let (_, errors) = said(&mut valgrind)?;
    let counted = errors.lines().find_map(|line| line.split_once("Collected : ")?.1.parse().ok());
    let counted: u64 = counted.ok_or_else(|| format!("callgrind counted nothing: {errors}"))?;
    Ok(counted as f64 / (ROUNDS + 1) as f64)
}

/// The compiler, the counter, and those features of the processor that choose between code paths.
fn machine() -> Result<String, String> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let flags: Vec<&str> = flags.split_whitespace().collect();
    let known = ["avx2", "bmi2", "erms", "fsrm", "pclmulqdq", "vpclmulqdq"];
    let has: Vec<&str> = known.into_iter().filter(|flag| flags.contains(flag)).collect();
    let version = |program: &str, flag: &str| -> Result<String, String> {
        let text = said(Command::new(program).arg(flag).current_dir(top()))?.0;
        Ok(text.lines().next().unwrap_or_default().trim().to_owned())
    };
    let libc = version("ldd", "--version").unwrap_or_default();
    let libc = libc.rsplit(' ').next().unwrap_or_default().to_owned();
    Ok(format!(
        "{}, {}, libc {libc}, {}",
        version("rustc", "--version")?,
        version("valgrind", "--version")?,
        has.join(" ")
    ))
}

/// Hot steps of this checkout beside those of another commit, in time, interleaved in one run, with the
/// same program beside itself: advice, since times on shared machines lie.
pub(crate) fn compare_with(commit: &str, rounds: usize) -> Done {
    let head = steps_program()?;
    let tree = top().join("target/bench-base");
    let shown = tree.display().to_string();
    if tree.exists() {
        steps::run("git", &["worktree", "remove", "--force", &shown])?;
    }
    steps::run("git", &["worktree", "add", "--detach", "--force", &shown, commit])?;
    let build = Command::new("cargo")
        .args(["build", "--release", "--quiet", "-p", "benches", "--bin", "steps"])
        .arg("--target-dir")
        .arg(top().join("target/bench-base-target"))
        .current_dir(&tree)
        .status();
    steps::run("git", &["worktree", "remove", "--force", &shown])?;
    if !build.is_ok_and(|status| status.success()) {
        return Err(format!("the hot steps of {commit} do not build: is it older than they are?"));
    }
    let base = top().join("target/bench-base-target/release/steps");
    println!("    time of each step, {commit} = 1: its like in the same run, and this checkout");
    for name in said(Command::new(&head).arg("list"))?.0.lines() {
        let mut ratios = [Vec::new(), Vec::new()];
        for round in 0..rounds.max(3) {
            let mut times = [0.0; 3];
            let order = if round % 2 == 0 { [0, 1, 2] } else { [2, 1, 0] };
            for side in order {
                let program = [&base, &base, &head][side];
                let Ok((time, _)) = said(Command::new(program).args(["time", name, "100"])) else {
                    continue;
                };
                times[side] = time.trim().parse().unwrap_or(0.0);
            }
            if times[0] > 0.0 {
                ratios[0].push(times[1] / times[0]);
                ratios[1].push(times[2] / times[0]);
            }
        }
        if ratios[0].is_empty() {
            println!("    new                         {name}");
            continue;
        }
        let spread = |ratios: &[f64]| {
            let mut sorted = ratios.to_vec();
            sorted.sort_by(f64::total_cmp);
            (sorted[sorted.len() / 10], sorted[sorted.len() - 1 - sorted.len() / 10])
        };
        let ([like, ours], lows) = (ratios.clone().map(median), ratios.map(|r| spread(&r)));
        // Slower only if nearly all rounds say so, and by more than the program differs from itself.
        let own = (lows[0].1 - 1.0).abs().max((1.0 - lows[0].0).abs());
        let verdict = if lows[1].0 > 1.0 && ours > 1.0 + (2.0 * own).max(0.03) {
            "SLOWER"
        } else if lows[1].1 < 1.0 && ours < 1.0 - (2.0 * own).max(0.03) {
            "faster"
        } else {
            ""
        };
        println!(
            "    {like:.3} ({:.3} to {:.3})  {ours:.3} ({:.3} to {:.3})  {name} {verdict}",
            lows[0].0, lows[0].1, lows[1].0, lows[1].1
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, f64)]) -> Counts {
        pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn more_work_is_named_and_chance_is_not() {
        let committed =
            counts(&[("validate", 1000.0), ("load: syncs", 10.0), ("load: enters", 40.0)]);
        let chance = counts(&[("validate", 1029.0), ("load: syncs", 10.4), ("load: enters", 46.0)]);
        assert_eq!(compare("chance", &committed, &chance), Vec::<String>::new());
        let less = counts(&[("validate", 500.0), ("load: syncs", 1.0), ("load: enters", 4.0)]);
        assert_eq!(compare("less", &committed, &less), Vec::<String>::new());
        for (name, count) in [("validate", 1031.0), ("load: syncs", 11.2), ("load: enters", 62.0)] {
            let mut worse = chance.clone();
            worse.insert(name.to_owned(), count);
            let said = compare("worse", &committed, &worse);
            assert!(said.len() == 1 && said[0].starts_with(name), "{said:?}");
        }
        let mut gone = chance.clone();
        gone.remove("validate");
        assert_eq!(compare("gone", &committed, &gone).len(), 1);
        gone.insert("new step".to_owned(), 1.0);
        assert_eq!(compare("gone and new", &committed, &gone).len(), 2);
    }
}
