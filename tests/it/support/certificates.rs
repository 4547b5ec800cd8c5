//! An authority of the tests' own, and what it signs.

use std::path::Path;
use std::process::{Command, Stdio};

/// Makes an authority (`authority.pem`) and a server's certificate and key (`server.pem`, `server.key`) in a folder, for names such as
/// `IP:127.0.0.1,DNS:localhost`.
pub fn certificates(folder: &Path, names: &str) {
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' ')).current_dir(folder).stdin(Stdio::null());
        let output = command.output().unwrap_or_else(|error| panic!("cannot run openssl ({error}): apt-get install openssl"));
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    openssl(&format!("req -x509 {key} -keyout authority.key -out authority.pem -subj /CN=haul-tests"));
    openssl(&format!(
        "req -x509 {key} -keyout server.key -out server.pem -subj /CN=localhost -CA authority.pem -CAkey authority.key \
         -addext subjectAltName={names} -addext basicConstraints=critical,CA:FALSE"
    ));
}
