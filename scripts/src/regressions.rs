//! The guard against regressions: work counted exactly and compared with what is committed. Counts do not
//! know how busy a machine is; times do, so they are only compared within one run, as advice.

use crate::edits::{self, copy_checkout};
use crate::measure::median;
use crate::steps::{self, Done, top, works};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const BASELINE: &str = "benches/baseline.toml";
const UPDATE: &str = "cargo xtask bench --update";
const SLOW_DOWNS: &str = "benches/slow_downs.toml";
/// Rounds in which the guard must find nothing.
const CLEAN_ROUNDS: usize = 10;
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
    let measured = measure(&build(&top(), &top().join("target"))?)?;
    let committed = committed()?;
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

fn committed() -> Result<Measured, String> {
    let text = std::fs::read_to_string(top().join(BASELINE))
        .map_err(|error| format!("{BASELINE}: {error}; {UPDATE} writes it"))?;
    read(&text)
}

/// Writes the baseline anew, and shows before and after.
pub(crate) fn update() -> Done {
    let measured = measure(&build(&top(), &top().join("target"))?)?;
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
    for (name, now) in measured {
        let Some(before) = committed.get(name) else {
            println!("    {:>12} {now:>12.2}  {name}", "new");
            continue;
        };
        let verdict = match now - before {
            more if more > allowed(name, *before) => "WORSE",
            more if -more > allowed(name, *before) => "better",
            _ => "",
        };
        println!("    {before:>12.2} {now:>12.2}  {name} {verdict}");
    }
    worse(committed, measured)
}

/// By how much a count may differ from the one committed.
fn allowed(name: &str, committed: f64) -> f64 {
    let (share, more) = tolerance(name);
    share * committed + more
}

/// What got worse, in words that begin with its name.
fn worse(committed: &Counts, measured: &Counts) -> Vec<String> {
    let complaint = |(name, now): (&String, &f64)| match committed.get(name) {
        None => Some(format!("{name} is not in the baseline")),
        Some(before) if now - before > allowed(name, *before) => {
            Some(format!("{name}: {before:.2} became {now:.2}"))
        }
        Some(_) => None,
    };
    let mut worse: Vec<String> = measured.iter().filter_map(complaint).collect();
    for name in committed.keys().filter(|name| !measured.contains_key(*name)) {
        worse.push(format!("{name} is not measured any more"));
    }
    worse
}

/// Builds `steps`, and `counts` beside it; where `steps` is.
fn build(tree: &Path, target: &Path) -> Result<PathBuf, String> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--quiet", "-p", "benches", "--bin", "steps"]);
    cargo.args(["--bin", "counts", "--target-dir"]).arg(target);
    said(cargo.current_dir(tree))?;
    Ok(target.join("release/steps"))
}

/// Counts with a program that `build` made.
fn measure(program: &Path) -> Result<Measured, String> {
    if !works("valgrind", &["--version"]) && !steps::install_debian("valgrind") {
        return Err("no valgrind: install it; it counts instructions".into());
    }
    let mut broker = Counts::new();
    for line in said(&mut Command::new(program.with_file_name("counts")))?.0.lines() {
        let Some((name, count)) = line.split_once('\t') else { continue };
        broker.insert(name.to_owned(), count.parse().map_err(|_| format!("not a count: {line}"))?);
    }
    let mut instructions = Counts::new();
    for name in said(Command::new(program).arg("list"))?.0.lines() {
        instructions.insert(name.to_owned(), instructions_of(program, name)?);
    }
    if broker.is_empty() || instructions.is_empty() {
        return Err("nothing was counted".into());
    }
    Ok(Measured { machine: machine()?, instructions, broker })
}

/// Slow-downs whose text the code holds no more, or more than once.
pub(crate) fn stale() -> Result<Vec<String>, String> {
    edits::stale(SLOW_DOWNS, "slow_down")
}

/// Tries the guard: it finds nothing in what is unchanged, again and again, and notices each deliberate
/// slow-down, in a copy of the checkout.
pub(crate) fn prove() -> Done {
    let mut before = committed()?;
    let copy = copy_checkout("slow-downs")?;
    let mut slow_downs = Vec::new();
    for slow_down in edits::read(SLOW_DOWNS, "slow_down")? {
        slow_down.apply(&copy)?;
        let count = slow_down.text("noticed_in").unwrap_or_default().to_owned();
        if !before.broker.contains_key(&count) && !before.instructions.contains_key(&count) {
            let name = &slow_down.name;
            return Err(format!("{SLOW_DOWNS}: {name}: noticed_in {count:?} is not in {BASELINE}"));
        }
        slow_downs.push((slow_down.name, count));
    }
    let slowed = build(&copy, &top().join("target/slow-downs/target"))?;
    let ours = build(&top(), &top().join("target"))?;
    let mut false_alarms = 0;
    for round in 0..=CLEAN_ROUNDS {
        let now = measure(&ours)?;
        if round == 0 {
            if now.machine != before.machine {
                println!(
                    "    instructions: beside those of a first round, for this is another machine"
                );
                before.instructions = now.instructions;
            }
            continue;
        }
        let found = worse_of_all(&before, &now);
        println!("    unchanged, round {round:>2}: {}", shown(&found));
        false_alarms += usize::from(!found.is_empty());
    }
    // All at once: each makes another count worse, and only its own is looked at.
    let found = worse_of_all(&before, &measure(&slowed)?);
    let mut missed = 0;
    for (name, count) in &slow_downs {
        let noticed = found.iter().find(|found| found.starts_with(&format!("{count}: ")));
        missed += usize::from(noticed.is_none());
        let noticed = noticed.map_or("MISSED", String::as_str);
        println!("    {name}\n        {noticed}");
    }
    match (false_alarms, missed) {
        (0, 0) => Ok(()),
        _ => Err(format!("{false_alarms} false alarms, {missed} slow-downs missed")),
    }
}

fn worse_of_all(before: &Measured, now: &Measured) -> Vec<String> {
    let mut found = worse(&before.broker, &now.broker);
    found.extend(worse(&before.instructions, &now.instructions));
    found
}

fn shown(found: &[String]) -> String {
    if found.is_empty() { "nothing".to_owned() } else { found.join("; ") }
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

/// Hot steps of this checkout beside those of another commit, timed by criterion, interleaved in one run,
/// with the same program beside itself: advice, since times on shared machines lie.
pub(crate) fn compare_with(commit: &str, rounds: usize) -> Done {
    let head = bench_program(&top(), &top().join("target"))?;
    let tree = top().join("target/bench-base");
    let shown = tree.display().to_string();
    if tree.exists() {
        steps::run("git", &["worktree", "remove", "--force", &shown])?;
    }
    steps::run("git", &["worktree", "add", "--detach", "--force", &shown, commit])?;
    let base = bench_program(&tree, &top().join("target/bench-base-target"));
    steps::run("git", &["worktree", "remove", "--force", &shown])?;
    let base = base.map_err(|why| format!("{commit}: {why}; is it older than the bench?"))?;
    let mut ratios: BTreeMap<String, [Vec<f64>; 2]> = BTreeMap::new();
    let mut new = Vec::new();
    for round in 0..rounds.max(3) {
        let mut times = [BTreeMap::new(), BTreeMap::new(), BTreeMap::new()];
        for side in if round % 2 == 0 { [0, 1, 2] } else { [2, 1, 0] } {
            times[side] = times_of([&base, &base, &head][side])?;
        }
        let [base, like, ours] = times;
        new = ours.keys().filter(|name| !base.contains_key(*name)).cloned().collect();
        for (name, time) in base {
            let (Some(like), Some(ours)) = (like.get(&name), ours.get(&name)) else { continue };
            let of = ratios.entry(name).or_default();
            of[0].push(like / time);
            of[1].push(ours / time);
        }
    }
    println!("    time of each step, {commit} = 1: its like in the same run, and this checkout");
    for (name, ratios) in ratios {
        println!("    {}", verdict(&name, ratios));
    }
    new.iter().for_each(|name| println!("    new                         {name}"));
    Ok(())
}

/// Builds the bench of the hot steps; where it is.
fn bench_program(tree: &Path, target: &Path) -> Result<PathBuf, String> {
    let build = ["bench", "--no-run", "--quiet", "-p", "benches", "--bench", "hot_steps"];
    let mut command = Command::new("cargo");
    command.args(build).args(["--message-format", "json", "--target-dir"]).arg(target);
    let (told, _) = said(command.current_dir(tree))?;
    let artifact = |line: &str| {
        let artifact: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_bench = artifact["target"]["name"] == "hot_steps";
        is_bench.then(|| artifact["executable"].as_str().map(PathBuf::from))?
    };
    told.lines().find_map(artifact).ok_or_else(|| "the bench hot_steps does not build".to_owned())
}

/// Nanoseconds of each step, as criterion finds them in a short run.
fn times_of(program: &Path) -> Result<BTreeMap<String, f64>, String> {
    let home = top().join("target/bench-times");
    let _ = std::fs::remove_dir_all(&home);
    let short = ["--sample-size", "10", "--warm-up-time", "0.1", "--measurement-time", "0.3"];
    said(
        Command::new(program)
            .args(["--bench", "--noplot", "--nresamples", "1001"])
            .args(short)
            .env("CRITERION_HOME", &home),
    )?;
    let mut times = BTreeMap::new();
    for entry in std::fs::read_dir(&home).map_err(|error| error.to_string())?.flatten() {
        let json = |name: &str| -> Option<serde_json::Value> {
            let text = std::fs::read_to_string(entry.path().join("new").join(name)).ok()?;
            serde_json::from_str(&text).ok()
        };
        let (Some(bench), Some(found)) = (json("benchmark.json"), json("estimates.json")) else {
            continue;
        };
        if let (Some(name), Some(time)) =
            (bench["full_id"].as_str(), found["median"]["point_estimate"].as_f64())
        {
            times.insert(name.to_owned(), time);
        }
    }
    if times.is_empty() { Err("criterion left no times".to_owned()) } else { Ok(times) }
}

/// Ratios to the base of its like and of ours, and what they say.
fn verdict(name: &str, ratios: [Vec<f64>; 2]) -> String {
    let spread = |ratios: &[f64]| {
        let mut sorted = ratios.to_vec();
        sorted.sort_by(f64::total_cmp);
        (sorted[sorted.len() / 10], sorted[sorted.len() - 1 - sorted.len() / 10])
    };
    let ([like, ours], spreads) = (ratios.clone().map(median), ratios.map(|r| spread(&r)));
    // Slower only if nearly all rounds say so, and by more than the program differs from itself.
    let own = (spreads[0].1 - 1.0).abs().max((1.0 - spreads[0].0).abs());
    let said = if spreads[1].0 > 1.0 && ours > 1.0 + (2.0 * own).max(0.03) {
        "SLOWER"
    } else if spreads[1].1 < 1.0 && ours < 1.0 - (2.0 * own).max(0.03) {
        "faster"
    } else {
        ""
    };
    format!(
        "{like:.3} ({:.3} to {:.3})  {ours:.3} ({:.3} to {:.3})  {name} {said}",
        spreads[0].0, spreads[0].1, spreads[1].0, spreads[1].1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, f64)]) -> Counts {
        pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn slower_is_said_only_of_what_differs_more_than_the_same_program_does() {
        let same = vec![0.99, 1.0, 1.01];
        assert!(verdict("x", [same.clone(), vec![1.10, 1.11, 1.12]]).ends_with("SLOWER"));
        assert!(verdict("x", [same.clone(), vec![0.88, 0.89, 0.90]]).ends_with("faster"));
        assert!(verdict("x", [same.clone(), vec![0.97, 1.02, 1.08]]).ends_with("x "));
        let noisy = vec![0.9, 1.0, 1.1];
        assert!(verdict("x", [noisy, vec![1.10, 1.11, 1.12]]).ends_with("x "));
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
