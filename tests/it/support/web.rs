//! An HTTP server of a test's own, on loopback: it answers exactly what it is told to, well-formed or not.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `GET`
    pub method: String,
    /// Without the query.
    pub path: String,
    /// The parameters, unescaped.
    pub query: BTreeMap<String, String>,
    /// By their names in small letters.
    pub headers: BTreeMap<String, String>,
    /// All of it.
    pub body: Vec<u8>,
    /// How many requests came before.
    pub number: usize,
    /// When it came.
    pub at: Instant,
}

impl Asked {
    /// A parameter as a number, or another one when it is not there.
    pub fn number_of(&self, name: &str, other: usize) -> usize {
        self.query.get(name).map_or(other, |text| text.parse().expect("a number"))
    }

    /// A header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// A server. It answers until the test's process ends.
pub struct Web {
    /// `127.0.0.1:PORT`
    pub host: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Web {
    /// Starts a server. Each request is answered on a thread of its own; the connection is closed behind it.
    pub fn start(answer: impl Fn(&Asked, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let host = listener.local_addr().expect("an address").to_string();
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (answer, log) = (Arc::new(answer), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                std::thread::spawn(move || {
                    // A client that goes away is no fault of the server.
                    let _ = serve(stream, &*answer, &log);
                });
            }
        });
        Self { host, asked }
    }

    /// The server's URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.host)
    }

    /// Everything that was asked for so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("the log").clone()
    }
}

fn serve(
    mut stream: TcpStream,
    answer: &(dyn Fn(&Asked, &mut TcpStream) -> io::Result<()> + Send + Sync),
    log: &Mutex<Vec<Asked>>,
) -> io::Result<()> {
    let mut input = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    input.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let url = url::Url::parse("http://x").and_then(|base| base.join(&target)).map_err(io::Error::other)?;
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        input.read_line(&mut line)?;
        if !line.ends_with('\n') {
            // Whoever asked was killed meanwhile: a part of a request is none.
            return Ok(());
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut body = vec![0; headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0)];
    input.read_exact(&mut body)?;
    let query = url.query_pairs().into_owned().collect();
    let mut asked = Asked { method, path: url.path().to_owned(), query, headers, body, number: 0, at: Instant::now() };
    {
        let mut log = log.lock().expect("the log");
        asked.number = log.len();
        log.push(asked.clone());
    }
    answer(&asked, &mut stream)?;
    stream.flush()
}

/// A whole answer.
pub fn answer(out: &mut TcpStream, status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> io::Result<()> {
    let body = body.as_ref();
    head(out, status, &[headers, &[("Content-Length", &body.len().to_string())]].concat())?;
    out.write_all(body)
}

/// An answer of JSON.
pub fn json(out: &mut TcpStream, body: &str) -> io::Result<()> {
    answer(out, 200, &[("Content-Type", "application/json")], body)
}

/// An answer that ends before it should.
pub fn cut(out: &mut TcpStream, body: &str) -> io::Result<()> {
    head(out, 200, &[("Content-Length", &(body.len() + 100).to_string())])?;
    out.write_all(body.as_bytes())
}

/// The beginning of an answer.
pub fn head(out: &mut TcpStream, status: u16, headers: &[(&str, &str)]) -> io::Result<()> {
    write!(out, "HTTP/1.1 {status} Status\r\nConnection: close\r\n")?;
    for (name, value) in headers {
        write!(out, "{name}: {value}\r\n")?;
    }
    write!(out, "\r\n")
}
