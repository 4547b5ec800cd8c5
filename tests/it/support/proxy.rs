//! Stands between haul and a server, passes everything on, and spoils one moment of it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens when haul says the word that was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The word does not arrive: the connection is cut.
    Cut,
    /// The word arrives, and the connection is cut in place of the first answer to it.
    Swallow,
    /// The word arrives, and after this many bytes of its answers the connection is cut.
    CutAnswers(usize),
    /// Nothing goes either way for a second.
    Stall,
}

/// Fragments everything it passes on; a port of this machine.
pub struct Proxy {
    pub port: u16,
    trap: Arc<Trap>,
}

struct Trap {
    /// What is waited for, how many of it are let through, and what happens then.
    armed: Mutex<Option<(Vec<u8>, usize, Fault)>>,
    sprung: AtomicBool,
}

impl Trap {
    /// The fault that these bytes bring about.
    fn springs(&self, bytes: &[u8]) -> Option<Fault> {
        let mut armed = self.armed.lock().expect("the trap");
        let (word, passing, fault) = armed.as_mut()?;
        if !bytes.windows(word.len()).any(|part| part == word) {
            return None;
        }
        if *passing > 0 {
            *passing -= 1;
            return None;
        }
        let fault = *fault;
        *armed = None;
        self.sprung.store(true, Ordering::SeqCst);
        Some(fault)
    }
}

impl Proxy {
    /// A proxy before the server on a port of this machine.
    pub fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let trap = Arc::new(Trap { armed: Mutex::default(), sprung: AtomicBool::new(false) });
        let shared = Arc::clone(&trap);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A server that is away refuses, and so does its proxy.
                if let Ok(server) = TcpStream::connect(("127.0.0.1", server)) {
                    pass(client, server, &shared);
                }
            }
        });
        Self { port, trap }
    }

    /// Spoils the moment in which haul says a word, after so many times that pass.
    pub fn spoil(&self, word: &str, passing: usize, fault: Fault) {
        self.trap.sprung.store(false, Ordering::SeqCst);
        *self.trap.armed.lock().expect("the trap") = Some((word.as_bytes().to_vec(), passing, fault));
    }

    /// Whether that has happened.
    pub fn has_spoilt(&self) -> bool {
        self.trap.sprung.load(Ordering::SeqCst)
    }
}

fn pass(client: TcpStream, server: TcpStream, trap: &Arc<Trap>) {
    let answers: Arc<Mutex<Option<usize>>> = Arc::default();
    let copy = |stream: &TcpStream| stream.try_clone().expect("a stream");
    let (mut from, mut to) = (copy(&client), copy(&server));
    let (trap, left) = (Arc::clone(trap), Arc::clone(&answers));
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let bytes = &buffer[..length];
            match trap.springs(bytes) {
                Some(Fault::Cut) => break,
                Some(Fault::Swallow) => *left.lock().expect("the count") = Some(0),
                Some(Fault::CutAnswers(bytes)) => *left.lock().expect("the count") = Some(bytes),
                Some(Fault::Stall) => std::thread::sleep(Duration::from_secs(1)),
                None => {}
            }
            if fragmented(&mut to, bytes).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    });
    let (mut from, mut to) = (server, client);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let mut left = answers.lock().expect("the count");
            let passed = left.map_or(length, |left| left.min(length));
            let cut = passed < length;
            *left = left.map(|left| left - passed);
            drop(left);
            if fragmented(&mut to, &buffer[..passed]).is_err() || cut {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    });
}

/// The first bytes one by one, the rest at once: frames come in pieces, and the test stays quick.
fn fragmented(to: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    to.set_nodelay(true)?;
    let (first, rest) = bytes.split_at(bytes.len().min(3));
    first.chunks(1).chain([rest]).filter(|part| !part.is_empty()).try_for_each(|part| to.write_all(part))
}
