//! The JSON Schemas of pipelines and project files, made from [`super::file`].

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use super::file;

/// The schema of a pipeline file.
pub fn pipeline() -> Value {
    generate::<file::Pipeline>("haul pipeline")
}

/// The schema of a project file, `haul.yaml`.
pub fn project() -> Value {
    generate::<file::Project>("haul project")
}

/// The schema files by name.
pub fn files() -> [(&'static str, Value); 2] {
    [("pipeline.schema.json", pipeline()), ("project.schema.json", project())]
}

/// The text of a schema file.
pub fn text(schema: &Value) -> String {
    format!("{schema:#}\n")
}

fn generate<T: JsonSchema>(title: &str) -> Value {
    let generator = SchemaSettings::draft2020_12().with_transform(Plain).into_generator();
    let mut schema = generator.into_root_schema_for::<T>();
    schema.insert("title".to_owned(), json!(title));
    schema.to_value()
}

/// Makes schemas plain enough for a stock validator to name the leaf that is wrong: absent keys are absent rather than null, and
/// the words of an enum stand in one list, with their descriptions beside them.
#[derive(Clone)]
struct Plain;

impl Transform for Plain {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let Some(object) = schema.as_object_mut() else { return };
        object.remove("format");
        let chooses_by_type = object.contains_key("then");
        if let Some(Value::Array(types)) = object.get_mut("type").filter(|_| !chooses_by_type) {
            types.retain(|ty| ty != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                object.insert("type".to_owned(), only);
            }
        }
        let any = object.get("anyOf").and_then(Value::as_array).cloned().unwrap_or_default();
        if let [Value::Object(present), null] = any.as_slice()
            && null["type"] == "null"
        {
            object.remove("anyOf");
            object.extend(present.clone());
        }
        let words = object.get("oneOf").and_then(Value::as_array).cloned().unwrap_or_default();
        if !words.is_empty() && words.iter().all(|word| word.get("const").is_some()) {
            object.remove("oneOf");
            object.insert("type".to_owned(), json!("string"));
            object.insert("enum".to_owned(), words.iter().map(|word| word["const"].clone()).collect());
            object.insert("enumDescriptions".to_owned(), words.iter().map(|word| word["description"].clone()).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a stock validator says, one `pointer: keyword` a line.
    fn check(case: Value, expected: &[&str]) {
        let validator = jsonschema::validator_for(&pipeline()).expect("the schema compiles");
        let said: Vec<_> =
            validator.iter_errors(&case).map(|error| format!("{}: {}", error.instance_path(), error.kind().keyword())).collect();
        assert_eq!(said, expected, "{case}");
    }

    fn stage(stage: Value) -> Value {
        json!({ "stages": { "a": stage } })
    }

    #[test]
    fn a_stock_validator_names_the_leaf() {
        let to = json!({ "discard": "a test" });
        check(stage(json!({ "kind": "batch", "from": { "sql": "x", "table": "t" }, "to": to })), &[]);
        check(stage(json!({ "kind": "batch", "from": { "sql": "x", "path": 1 }, "to": to })), &["/stages/a/from: additionalProperties"]);
        check(stage(json!({ "kind": "batch", "from": { "sql": 5 }, "to": to })), &["/stages/a/from/sql: type"]);
        check(stage(json!({ "kind": "batch", "from": [{ "stage": "b" }, { "files": "f" }] })), &["/stages/a/from/1: required"]);
        check(stage(json!({ "kind": "steam", "from": 5 })), &["/stages/a/kind: enum"]);
        check(stage(json!({ "kind": "batch", "from": { "stage": "b" }, "timeout": "5 m" })), &["/stages/a/timeout: pattern"]);
        check(
            stage(json!({ "kind": "batch", "from": { "stage": "b" }, "timeout": null })),
            &["/stages/a/timeout: type", "/stages/a/timeout: pattern"][..1],
        );
        let mask = json!([{ "mask": { "a": null, "b": "null", "c": { "hash": "x" } } }]);
        check(stage(json!({ "kind": "batch", "from": { "stage": "b" }, "transform": mask })), &[]);
        let mask = json!([{ "mask": { "a": "nil", "c": { "hsh": "x" } } }]);
        let said = &["/stages/a/transform/0/mask/a: enum", "/stages/a/transform/0/mask/c: additionalProperties"];
        check(stage(json!({ "kind": "batch", "from": { "stage": "b" }, "transform": mask })), said);
    }
}
