//! Answers of the server, read as what a command promises. Each of these turns the server's refusal into a failure.

use redis::Value;

use super::error::refusal;
use crate::failure::Failure;

/// The reply to a command that may not fail: the server's refusal becomes a failure.
pub fn good(reply: Value) -> Result<Value, Failure> {
    match reply {
        Value::ServerError(error) => Err(refusal(&error)),
        other => Ok(other),
    }
}

/// Bytes of a bulk string; `None` for nil.
pub fn bytes(reply: Value) -> Result<Option<Vec<u8>>, Failure> {
    match good(reply)? {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes)),
        Value::SimpleString(text) => Ok(Some(text.into_bytes())),
        Value::Okay => Ok(Some(b"OK".to_vec())),
        other => Err(odd("bytes", &other)),
    }
}

/// Text, such as a type's name or the answer to `INFO`.
pub fn text(reply: Value) -> Result<String, Failure> {
    match good(reply)? {
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => Ok(text),
        Value::BulkString(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Value::Okay => Ok("OK".to_owned()),
        other => Err(odd("text", &other)),
    }
}

/// A whole number.
pub fn integer(reply: Value) -> Result<i64, Failure> {
    match good(reply)? {
        Value::Int(number) => Ok(number),
        Value::Nil => Ok(0),
        Value::BulkString(bytes) => {
            String::from_utf8_lossy(&bytes).parse().map_err(|_| Failure::permanent("the server's answer is no whole number"))
        }
        other => Err(odd("a whole number", &other)),
    }
}

/// The items of an array, a set, or a map (keys and values in turn); none for nil.
pub fn items(reply: Value) -> Result<Vec<Value>, Failure> {
    match good(reply)? {
        Value::Nil => Ok(Vec::new()),
        Value::Array(items) | Value::Set(items) => Ok(items),
        Value::Map(pairs) => Ok(pairs.into_iter().flat_map(|(key, value)| [key, value]).collect()),
        other => Err(odd("a list", &other)),
    }
}

fn odd(wanted: &str, found: &Value) -> Failure {
    let kind = match found {
        Value::Nil => "nothing",
        Value::Int(_) => "a whole number",
        Value::BulkString(_) | Value::SimpleString(_) | Value::VerbatimString { .. } | Value::Okay => "text",
        Value::Array(_) | Value::Set(_) | Value::Map(_) => "a list",
        _ => "something else",
    };
    Failure::permanent(format!("the server answered with {kind} where {wanted} was expected"))
}
