//! Stands between haul and a server, passes everything on, and spoils one moment of it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// A test that holds something back and never lets it go has failed by then.
const LONGEST_HOLD: Duration = Duration::from_secs(120);

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
    /// Nothing goes from haul to the server until [`Proxy::let_go`].
    Hold,
    /// The same from the word on: what stands before it arrives.
    HoldWord,
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
    /// Whether what is held back may go on.
    let_go: (Mutex<bool>, Condvar),
    /// A text of the server's answers, and one of the same length that takes its place.
    pretence: Option<(Vec<u8>, Vec<u8>)>,
}

impl Trap {
    /// The fault that these bytes bring about, and where its word stands.
    fn springs(&self, bytes: &[u8]) -> Option<(usize, Fault)> {
        let mut armed = self.armed.lock().expect("the trap");
        let (word, passing, fault) = armed.as_mut()?;
        let at = bytes.windows(word.len()).position(|part| part == word)?;
        if *passing > 0 {
            *passing -= 1;
            return None;
        }
        let fault = *fault;
        *armed = None;
        self.sprung.store(true, Ordering::SeqCst);
        Some((at, fault))
    }

    fn hold(&self) {
        let (may_go, told) = &self.let_go;
        let held = told.wait_timeout_while(may_go.lock().expect("the word"), LONGEST_HOLD, |may_go| !*may_go);
        drop(held.expect("the word"));
    }

    fn pretend(&self, answer: &mut [u8]) {
        let Some((truth, pretence)) = &self.pretence else { return };
        if let Some(at) = answer.windows(truth.len()).position(|part| part == truth) {
            answer[at..at + truth.len()].copy_from_slice(pretence);
        }
    }
}

impl Proxy {
    /// A proxy before the server on a port of this machine.
    pub fn before(server: u16) -> Self {
        Self::start(server, None)
    }

    /// The same, with one text in the server's answers in place of another of the same length.
    pub fn pretending(server: u16, truth: &str, pretence: &str) -> Self {
        assert_eq!(truth.len(), pretence.len());
        Self::start(server, Some((truth.into(), pretence.into())))
    }

    fn start(server: u16, pretence: Option<(Vec<u8>, Vec<u8>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let trap = Arc::new(Trap { armed: Mutex::default(), sprung: AtomicBool::new(false), let_go: Default::default(), pretence });
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
        *self.trap.let_go.0.lock().expect("the word") = false;
        *self.trap.armed.lock().expect("the trap") = Some((word.as_bytes().to_vec(), passing, fault));
    }

    /// Lets what is held back go on.
    pub fn let_go(&self) {
        *self.trap.let_go.0.lock().expect("the word") = true;
        self.trap.let_go.1.notify_all();
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
    let (trap, answering, left) = (Arc::clone(trap), Arc::clone(trap), Arc::clone(&answers));
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let mut bytes = &buffer[..length];
            match trap.springs(bytes) {
                Some((_, Fault::Cut)) => break,
                Some((_, Fault::Swallow)) => *left.lock().expect("the count") = Some(0),
                Some((_, Fault::CutAnswers(bytes))) => *left.lock().expect("the count") = Some(bytes),
                Some((_, Fault::Stall)) => std::thread::sleep(Duration::from_secs(1)),
                Some((_, Fault::Hold)) => trap.hold(),
                Some((at, Fault::HoldWord)) => {
                    let (before, word) = bytes.split_at(at);
                    if fragmented(&mut to, before).is_err() {
                        break;
                    }
                    trap.hold();
                    bytes = word;
                }
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
            answering.pretend(&mut buffer[..length]);
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
