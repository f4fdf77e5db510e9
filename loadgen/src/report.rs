//! Reports: text, Markdown, HTML, JSON, all written from one result.

pub(crate) mod charts;
pub(crate) mod html;
pub(crate) mod markdown;
pub(crate) mod omb;
pub(crate) mod output;
pub(crate) mod text;
pub(crate) mod words;

use crate::ending::{Ending, Failure};
use crate::judge::result::RunResult;
use crate::options::args::Args;
use crate::options::scenario;
use crate::report::output::{pretty, show, write};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// `loadgen report`: the files of a run once more.
#[derive(clap::Args, Debug)]
pub(crate) struct ReportArgs {
    /// Directory with a result.json
    dir: PathBuf,
}

/// Everything that is told of one run.
pub(crate) fn write_all(result: &RunResult, args: &Args, dir: &Path) -> Result<(), Failure> {
    write(dir, "result.json", &pretty(result))?;
    write(dir, "scenario.toml", &scenario::text_of(args, result.seed))?;
    if args.omb_json {
        write(dir, "omb.json", &pretty(&omb::of(result)))?;
    }
    write_readable(result, dir)
}

fn write_readable(result: &RunResult, dir: &Path) -> Result<(), Failure> {
    write(dir, "report.txt", &text::text(result))?;
    write(dir, "report.md", &markdown::of_run(result))?;
    write(dir, "report.html", &html::of_run(result))
}

/// `loadgen report DIR`.
pub(crate) fn again(args: &ReportArgs) -> Result<Ending, Failure> {
    let result = RunResult::read(&args.dir.join("result.json")).map_err(Failure::usage)?;
    write_readable(&result, &args.dir)?;
    show(&text::text(&result), &args.dir);
    Ok(Ending::Fine)
}

/// `loadgen schema`.
pub(crate) fn schema() -> Result<Ending, Failure> {
    let schema = schemars::schema_for!(RunResult);
    let _ = std::io::stdout().write_all(pretty(&schema).as_bytes());
    Ok(Ending::Fine)
}
