//! Clients of tests: an answer read as it comes.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use super::PATIENCE;

/// An answer that is read.
pub struct Answer {
    pub status: u16,
    /// By their names in small letters.
    pub headers: BTreeMap<String, String>,
    body: BufReader<TcpStream>,
    /// What is left of a piece of the body; `None` when the body is not cut into pieces.
    left: Option<usize>,
    /// The id of the last event.
    pub id: String,
}

/// Asks for something with GET.
pub fn get(address: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    try_get(address, path, headers).expect("an answer")
}

pub fn try_get(address: &str, path: &str, headers: &[(&str, &str)]) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = format!("GET {path} HTTP/1.1\r\n");
    if headers.iter().all(|(name, _)| !name.eq_ignore_ascii_case("host")) {
        request.push_str(&format!("Host: {address}\r\n"));
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{request}\r\n").as_bytes())?;
    let mut body = BufReader::new(stream);
    let mut line = String::new();
    body.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut found = BTreeMap::new();
    loop {
        line.clear();
        body.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        found.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let left = found.contains_key("transfer-encoding").then_some(0);
    Ok(Answer { status, headers: found, body, left, id: String::new() })
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The next line of the body; `None` at its end.
    pub fn line(&mut self) -> Option<String> {
        self.try_line().expect("a line")
    }

    pub fn try_line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            match &mut self.left {
                Some(0) => {
                    let mut size = String::new();
                    self.body.read_line(&mut size)?;
                    if size.trim().is_empty() && !size.is_empty() {
                        continue;
                    }
                    let Ok(size) = usize::from_str_radix(size.trim(), 16) else { return Err(io::ErrorKind::UnexpectedEof.into()) };
                    if size == 0 {
                        return Ok(None);
                    }
                    self.left = Some(size);
                }
                left => {
                    if self.body.read(&mut byte)? == 0 {
                        return if line.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
                    }
                    if let Some(left) = left {
                        *left -= 1;
                    }
                    if byte[0] == b'\n' {
                        return Ok(Some(String::from_utf8(line).expect("UTF-8")));
                    }
                    line.push(byte[0]);
                }
            }
        }
    }

    /// The next object of an answer of lines.
    pub fn object(&mut self) -> Value {
        loop {
            let line = self.line().expect("the answer goes on");
            if !line.is_empty() {
                return serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
            }
        }
    }

    /// The data of the next server-sent event; notes have the name `feed`.
    pub fn event(&mut self) -> Value {
        let (mut data, mut name) = (None, String::new());
        loop {
            let line = self.line().expect("the answer goes on");
            match line.split_once(": ") {
                Some(("data", text)) => data = Some(serde_json::from_str::<Value>(text).expect("JSON")),
                Some(("id", id)) => self.id = id.to_owned(),
                Some(("event", text)) => text.clone_into(&mut name),
                _ if line.is_empty() => {
                    if let Some(data) = data.take() {
                        assert_eq!(name == "feed", !data["@feed"].is_null(), "{data}");
                        return data;
                    }
                }
                _ => {}
            }
        }
    }

    /// All of a body with a length.
    pub fn json(mut self) -> Value {
        let length: usize = self.header("content-length").parse().expect("a length");
        let mut body = vec![0; length];
        self.body.read_exact(&mut body).expect("the body");
        serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{}: {error}", String::from_utf8_lossy(&body)))
    }
}
