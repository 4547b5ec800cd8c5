//! What the schema's own names are called in diagnostics.

/// A type of JSON Schema, as people call it.
pub(super) fn type_word(ty: &str) -> &'static str {
    match ty {
        "array" => "a list",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        "object" => "a mapping",
        "null" => "nothing",
        _ => "a text",
    }
}

/// A definition of the schema, as people call it.
pub(super) fn what(definition: &str) -> String {
    match definition {
        "" => "a pipeline",
        "BatchStage" | "Stage" => "a stage",
        "CacheStage" => "a cache stage",
        "StreamStage" => "a stream",
        "Levels" => "`levels`",
        "MemoryLevel" => "`memory`",
        "Lookup" => "a lookup",
        "CacheHome" => "`in`",
        "Load" => "`load`",
        "Refresh" => "`refresh`",
        "Ttl" => "`ttl`",
        "CacheOutput" => "a `cache` output",
        "SqlInput" => "a `sql` input",
        "FilesInput" => "a `files` input",
        "RedisInput" => "a `redis` input",
        "HttpInput" => "a `http` input",
        "HttpOutput" => "a `http` output",
        "Auth" => "`auth`",
        "Paginate" => "`paginate`",
        "Lifetime" => "`lifetime`",
        "SizeRange" => "`size`",
        "TtlColumn" | "KeyTtl" => "`ttl`",
        "GenerateInput" => "a `generate` input",
        "StageInput" => "a `stage` input",
        "SqlOutput" => "a `sql` output",
        "FilesOutput" => "a `files` output",
        "RedisOutput" => "a `redis` output",
        "DiscardOutput" => "a `discard` output",
        "Step" => "a transform step",
        "Mask" => "a mask",
        "Param" => "a param",
        "Connection" => "a connection",
        "Limits" => "`limits`",
        "Defaults" => "`defaults`",
        "Retry" => "`retry`",
        "Backoff" => "`backoff`",
        "Splits" => "`splits`",
        "BatchSize" | "StreamBatch" | "RequestBatch" => "`batch`",
        "Notify" => "a notification",
        "Schedule" => "`schedule`",
        "AfterPipeline" => "the `after` of `schedule`",
        "CatchUp" => "`catch_up`",
        "CsvInput" | "CsvOutput" => "`csv`",
        "Rejects" => "`rejects`",
        "RejectsFile" => "the `to` of `rejects`",
        other => other,
    }
    .to_owned()
}
