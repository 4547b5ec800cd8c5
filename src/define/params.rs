//! Params: what a pipeline asks for by name, and the texts given for it.

use super::pipeline::{Param, ParamType};
use super::reader::Reader;
use crate::diagnostic::suggest::list;
use crate::load::document::child;
use crate::load::file;
use crate::load::shape::{Entries, Scalar};
use crate::load::template::Value;

/// Reads `params:`.
pub fn read(reader: &mut Reader<'_>, said: Option<&Entries<file::Param>>) -> Vec<Param> {
    let mut params = Vec::new();
    for (name, said) in said.map(|entries| entries.0.as_slice()).unwrap_or_default() {
        let at = child("/params", name);
        let Some(ty) = said.ty else { continue };
        let ty = match ty {
            file::ParamType::Text => ParamType::Text,
            file::ParamType::Int => ParamType::Int,
            file::ParamType::Number => ParamType::Number,
            file::ParamType::Bool => ParamType::Bool,
            file::ParamType::Date => ParamType::Date,
            file::ParamType::Timestamp => ParamType::Timestamp,
        };
        let allowed: Vec<String> = said
            .allowed
            .iter()
            .flatten()
            .enumerate()
            .map(|(index, value)| {
                let at = format!("{at}/allowed/{index}");
                typed_text(reader, &at, value, ty, &format!("an allowed value of `{name}`"))
            })
            .collect();
        let default_at = format!("{at}/default");
        let default = said.default.as_ref().map(|value| typed_text(reader, &default_at, value, ty, &format!("the default of `{name}`")));
        if let Some(default) = &default
            && !allowed.is_empty()
            && !allowed.contains(default)
        {
            let message = format!("the default of `{name}` is not one of its allowed values");
            reader.error(
                "param-default",
                &default_at,
                message,
                format!("the allowed values are {}", list(allowed.iter().map(String::as_str))),
            );
        }
        params.push(Param { name: name.clone(), ty, default, description: said.description.clone(), allowed, at });
    }
    params
}

/// Warns of params that no template names. Only meaningful after everything else has been read.
pub fn unused(reader: &mut Reader<'_>) {
    if !reader.reports_unused("unknown-param") {
        return;
    }
    let unused: Vec<_> = reader.params.iter().filter(|param| !reader.used_params.contains(&param.name)).cloned().collect();
    for param in unused {
        let help = format!("use it as `{{{{ params.{} }}}}`, or remove it", param.name);
        reader.warn_at_key("unused-param", &param.at, format!("no template uses the param `{}`", param.name), help);
    }
}

/// The text of a value in a type, as it is written: `1.10` stays `1.10`.
fn typed_text(reader: &mut Reader<'_>, at: &str, value: &Scalar, ty: ParamType, what: &str) -> String {
    let written = reader.document.written(at);
    let text = value.0.as_str().or(written).map_or_else(|| value.0.to_string(), str::to_owned);
    if let Err(reason) = typed(&text, ty) {
        reader.error("param-default", at, format!("{what} does not fit its type: {reason}"), format!("its type is `{}`", word(ty)));
    }
    text
}

/// Reads a text as a type. The error is a sentence.
pub fn typed(text: &str, ty: ParamType) -> Result<Value, String> {
    match ty {
        ParamType::Text => Ok(Value::Text(text.to_owned())),
        ParamType::Int => Value::int(text),
        ParamType::Number => Value::number(text),
        ParamType::Bool => Value::bool(text),
        ParamType::Date => Value::date(text),
        ParamType::Timestamp => Value::timestamp(text),
    }
}

/// The type's name in files.
pub fn word(ty: ParamType) -> &'static str {
    match ty {
        ParamType::Text => "text",
        ParamType::Int => "int",
        ParamType::Number => "number",
        ParamType::Bool => "bool",
        ParamType::Date => "date",
        ParamType::Timestamp => "timestamp",
    }
}
