//! CSV, NDJSON and Parquet files, local or in an object store.
