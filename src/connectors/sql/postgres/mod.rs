//! PostgreSQL, over its COPY protocol.
