//! The program `weir`.

fn main() -> std::process::ExitCode {
    broker::cli::main(std::env::args_os())
}
