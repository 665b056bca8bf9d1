//! The `regentfs` program: see `cli/`.

fn main() -> std::process::ExitCode {
    regentfs::cli::main()
}
