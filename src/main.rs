//! Arguments in, exit code out.

fn main() -> std::process::ExitCode {
    haul::cli::main()
}
