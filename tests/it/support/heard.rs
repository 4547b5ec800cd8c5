//! What the clients of a Redis server say, as `MONITOR` tells it.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use super::redis::Redis;

/// Ends what was heard.
const END: &str = "heard enough";

/// Listens from the moment it is made.
pub struct Heard<'a> {
    server: &'a Redis,
    lines: BufReader<TcpStream>,
}

impl<'a> Heard<'a> {
    /// Begins to listen to a server without a password.
    pub fn of(server: &'a Redis) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).expect("a connection");
        stream.write_all(b"MONITOR\r\n").expect("the server listens");
        let mut lines = BufReader::new(stream);
        let mut answer = String::new();
        lines.read_line(&mut answer).expect("an answer");
        assert_eq!(answer, "+OK\r\n");
        Self { server, lines }
    }

    /// Every command that was sent so far: who sent it, and its words, each in quotes. What scripts do is left out.
    pub fn commands(self) -> Vec<(String, String)> {
        self.server.ask::<String>(&["ECHO", END]);
        let lines = self.lines.lines().map(|line| line.expect("a line")).take_while(|line| !line.contains(END));
        // `+1700000000.123456 [0 127.0.0.1:5555] "SET" "key" "value"`
        let command = |line: String| {
            let (client, words) = line.split_once(" [")?.1.split_once("] ")?;
            Some((client.to_owned(), words.to_owned()))
        };
        lines.filter_map(command).filter(|(client, _)| !client.ends_with(" lua")).collect()
    }
}
