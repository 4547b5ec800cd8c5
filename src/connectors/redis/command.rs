//! Commands as they are sent: binary arguments, the slot they are routed by, and their size.

use redis::{Arg, Cmd, ToRedisArgs, Value};

use super::topology::slot;

/// What each command of a pipeline was answered, in order. An error of the server to one command is a [`Value::ServerError`] in its place.
pub type Replies = Vec<Value>;

/// What one argument takes on the wire besides its own bytes.
const ARGUMENT: usize = 16;
/// Arguments and bytes that most commands fit into.
const USUAL: (usize, usize) = (6, 64);

/// One command.
#[derive(Clone)]
pub struct Command {
    cmd: Cmd,
    slot: Option<u16>,
}

impl Command {
    /// Begins a command: its name, of one or several words.
    pub fn new(name: &str) -> Self {
        let mut cmd = Cmd::with_capacity(USUAL.0, USUAL.1);
        for word in name.split(' ') {
            cmd.arg(word);
        }
        Self { cmd, slot: None }
    }

    /// Adds a key, which decides the node that the command goes to. The keys of one command must share a slot.
    #[must_use]
    pub fn key(mut self, key: &[u8]) -> Self {
        self.slot = Some(slot(key));
        self.cmd.arg(key);
        self
    }

    /// Adds an argument: bytes, text or a number.
    #[must_use]
    pub fn arg(mut self, argument: impl ToRedisArgs) -> Self {
        self.cmd.arg(argument);
        self
    }

    /// The slot of its keys; `None` for a command without keys, which any node may answer.
    pub fn slot(&self) -> Option<u16> {
        self.slot
    }

    /// About how many bytes it takes on the wire.
    pub fn bytes(&self) -> usize {
        let size = |argument: Arg<&[u8]>| match argument {
            Arg::Simple(bytes) => bytes.len() + ARGUMENT,
            _ => ARGUMENT,
        };
        self.cmd.args_iter().map(size).sum()
    }

    pub(super) fn packed(&self) -> &Cmd {
        &self.cmd
    }
}
