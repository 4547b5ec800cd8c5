//! What every encrypted connection needs before the first one is made.

use std::sync::Once;

/// Chooses the cryptography of this process. Two providers may be linked in; whoever comes first decides, and either will do.
pub fn install_provider() {
    static TLS: Once = Once::new();
    TLS.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}
