//! Steps compiled once against real columns, then run on batches.
