//! The integration tests: one binary, one module a subject. They drive the built `haul` and look at what it left with other tools.

mod caches;
mod cli;
mod conformance;
mod examples;
mod files;
mod front;
mod ground;
mod http;
mod journal;
mod kill;
mod postgres;
mod readme;
mod redis_keys;
mod redis_rows;
mod rendering;
mod run;
mod run_postgres;
mod schedule;
mod serve;
mod shared_caches;
mod sqlite;
mod streams;
mod support;
mod tidy;
mod types;
mod verbs;
