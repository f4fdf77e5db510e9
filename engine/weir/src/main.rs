//! The program `weir`.

fn main() -> std::process::ExitCode {
    weir::cli::main(std::env::args_os())
}
