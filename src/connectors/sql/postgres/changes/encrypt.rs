//! TLS for a connection that the driver does not make, as strict as the driver's.

use std::path::Path;
use std::sync::Arc;

use postgres_protocol::message::frontend;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sqlx::postgres::PgSslMode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::wire::{Duplex, malformed};
use crate::connectors::sql::postgres::error::{from_io, untrusted};
use crate::connectors::sql::postgres::login::Login;
use crate::connectors::tls;
use crate::failure::Failure;

/// Encrypts what goes over `tcp`, or goes on without where the mode allows it and the server offers none.
pub(super) async fn encrypted(mut tcp: TcpStream, host: &str, mode: PgSslMode, login: &Login) -> Result<Box<dyn Duplex>, Failure> {
    let mut ask = bytes::BytesMut::new();
    frontend::ssl_request(&mut ask);
    tcp.write_all(&ask).await.map_err(from_io)?;
    match tcp.read_u8().await.map_err(from_io)? {
        b'S' => {}
        b'N' if matches!(mode, PgSslMode::Allow | PgSslMode::Prefer) => return Ok(Box::new(tcp)),
        b'N' => return Err(untrusted()),
        _ => return Err(malformed()),
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|error| untrusted().cause(error))?;
    let connector = TlsConnector::from(Arc::new(config(mode, login).await?));
    Ok(Box::new(connector.connect(name, tcp).await.map_err(from_io)?))
}

async fn config(mode: PgSslMode, login: &Login) -> Result<ClientConfig, Failure> {
    tls::install_provider();
    let builder = ClientConfig::builder();
    let builder = match mode {
        PgSslMode::VerifyFull => builder.with_root_certificates(roots(login).await?),
        _ => {
            let verify = matches!(mode, PgSslMode::VerifyCa);
            let roots = if verify { roots(login).await? } else { RootCertStore::empty() };
            let strict = if verify {
                Some(WebPkiServerVerifier::builder(Arc::new(roots)).build().map_err(|error| untrusted().cause(error))?)
            } else {
                None
            };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Lenient { strict }))
        }
    };
    match (&login.certificate, &login.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate).await?;
            let key = PrivateKeyDer::from_pem_slice(&read(key).await?).map_err(|error| unusable(key).cause(error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| unusable(certificate).cause(error))
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

/// The authorities that are trusted: those that were named, else those of the system.
async fn roots(login: &Login) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    match &login.authority {
        Some(path) => {
            for certificate in certificates(path).await? {
                roots.add(certificate).map_err(|error| unusable(path).cause(error))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(roots)
}

async fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let text = read(path).await?;
    CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|error| unusable(path).cause(error))
}

async fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    tokio::fs::read(path).await.map_err(|error| unusable(path).cause(error))
}

fn unusable(path: &Path) -> Failure {
    Failure::permanent(format!("the certificate or key {} cannot be used", path.display()))
}

/// Takes any server, or any that a trusted authority knows, whatever its name.
#[derive(Debug)]
struct Lenient {
    strict: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(strict) = &self.strict else { return Ok(ServerCertVerified::assertion()) };
        match strict.verify_server_cert(end, between, name, ocsp, now) {
            Err(Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. })) => {
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

fn algorithms() -> rustls::crypto::WebPkiSupportedAlgorithms {
    rustls::crypto::ring::default_provider().signature_verification_algorithms
}
