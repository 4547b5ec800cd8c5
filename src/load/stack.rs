//! Threads whose stack is deep enough for a parser that recurses.

use std::cell::Cell;

/// The stack of such a thread.
const BYTES: usize = 16 << 20;

thread_local! {
    /// Whether the thread is such a one.
    static DEEP: Cell<bool> = const { Cell::new(false) };
}

/// Works on a thread whose stack is deep enough to parse: the parser recurses, and takes up to 40 KiB a level, more than a thread's usual
/// 2 MiB at the greatest depth. Whoever parses many files does so inside of one call, which costs one thread.
pub fn on_a_deep_stack<T: Send>(work: impl Fn() -> T + Sync) -> T {
    if DEEP.get() {
        return work();
    }
    let there = || {
        DEEP.set(true);
        work()
    };
    std::thread::scope(|scope| match std::thread::Builder::new().stack_size(BYTES).spawn_scoped(scope, there) {
        Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        Err(_) => work(),
    })
}
