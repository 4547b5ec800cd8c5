//! A panic is a bug of haul: it is told as one, with what to send.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};

use super::render;

/// From here on, a panic on any thread prints a report instead of Rust's own text.
pub(super) fn install_hook() {
    panic::set_hook(Box::new(|info| render::say(&report(info))));
}

/// Runs the work; `None` when it panicked, after the hook has told of it.
pub(super) fn guard<T>(work: impl FnOnce() -> T) -> Option<T> {
    panic::catch_unwind(AssertUnwindSafe(work)).ok()
}

fn report(info: &PanicHookInfo<'_>) -> String {
    let said = info.payload().downcast_ref::<&str>().map(|text| (*text).to_owned());
    let said = said.or_else(|| info.payload().downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned());
    let place =
        info.location().map_or_else(|| "an unknown place".to_owned(), |place| format!("{}:{}", relative(place.file()), place.line()));
    // Captures only when RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    text(&said, &place, backtrace.as_deref())
}

/// A place in a dependency is named by its crate, without the folders of the machine it was built on.
fn relative(file: &str) -> &str {
    if let Some((_, of_crate)) = file.split_once("/registry/src/") {
        return of_crate.split_once('/').map_or(of_crate, |(_, rest)| rest);
    }
    file.split_once("/library/").map_or(file, |(_, of_rust)| of_rust)
}

fn text(said: &str, place: &str, backtrace: Option<&str>) -> String {
    let (version, os, arch) = (env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH);
    let mut text = format!(
        "error: internal error (this is a bug in haul): {said}, at {place}\n\
         help: please report it with this text, the version (haul {version}, {os} {arch}), the command, and the pipeline if you may\n\
         help: what was committed stays; running the same command again goes on from there"
    );
    match backtrace {
        Some(backtrace) => text.push_str(&format!("\n\n{}", backtrace.trim_end())),
        None => text.push_str("\nhelp: RUST_BACKTRACE=1 in the environment adds where it came from"),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_to_send() {
        let text = text("index out of bounds", "src/run/unit.rs:7", None);
        assert!(text.starts_with("error: internal error (this is a bug in haul): index out of bounds, at src/run/unit.rs:7\n"), "{text}");
        assert!(text.contains(&format!("haul {}", env!("CARGO_PKG_VERSION"))) && text.contains("RUST_BACKTRACE=1"), "{text}");
    }

    #[test]
    fn a_place_in_a_dependency_does_not_name_the_build_machine() {
        assert_eq!(relative("/a/b/registry/src/index.crates.io-19/csv-1.0/src/lib.rs"), "csv-1.0/src/lib.rs");
        assert_eq!(relative("/rustc/5980/library/core/src/option.rs"), "core/src/option.rs");
        assert_eq!(relative("src/main.rs"), "src/main.rs");
    }

    #[test]
    fn what_panics_does_not_get_past_the_guard() {
        assert_eq!(guard(|| 7), Some(7));
        assert_eq!(guard(|| std::panic::resume_unwind(Box::new("caught"))), None::<()>);
    }
}
