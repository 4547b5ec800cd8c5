//! Resuming, fencing, publishing.
