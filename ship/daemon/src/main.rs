//! The `walhub` command.

fn main() -> std::process::ExitCode {
    walhub::cli::main()
}
