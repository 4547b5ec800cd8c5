//! Redis and its kin: one server or a cluster, found out by asking the server itself.
//!
//! [`Server`] is what every use of Redis stands on: it connects, finds the masters, sends pipelines to a node or routes commands by their
//! keys, and turns what goes wrong into failures of the right kind. It knows no sources, sinks or caches.
//!
//! - `holders`: which node holds which keys, and whether it stayed so; `scans`: what a scan over them needs. `replicas`: what they have of the writes.
//! - `subscription`: messages as they are published.
//! - `keys`: keys copied as they are, whatever they hold. `rows`: keys as rows, both ways. `marks`: the record of what was written, beside the data.

mod address;
mod command;
mod error;
mod facts;
mod holders;
mod keys;
mod marks;
mod memory;
mod node;
mod replicas;
pub mod reply;
mod rows;
mod scans;
mod server;
mod subscription;
mod topology;

pub use address::Address;
pub use command::{Command, Replies};
pub use error::{failure, refusal};
pub use facts::{Facts, Version};
pub use marks::{Marks, Standing, Told};
pub use node::Lease;
pub use server::Server;
pub use subscription::{Message, Subscription};
pub use topology::{Master, SLOTS, Topology, slot};
