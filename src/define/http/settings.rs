//! What connections of HTTP say besides their URL.

use url::{Host, Url};

use crate::define::pipeline::{Engine, HttpAuth, HttpSettings};
use crate::define::reader::Reader;
use crate::diagnostic::Diagnostic;
use crate::load::Document;
use crate::load::document::child;
use crate::load::file;
use crate::load::shape::Duration;
use crate::secret::Secret;

/// Headers that the client writes by itself.
const OWN_HEADERS: [&str; 6] = ["host", "content-length", "transfer-encoding", "connection", "accept-encoding", "content-encoding"];

/// Reads what a connection says for HTTP. `None` when a template of it is wrong, which has been reported.
pub fn settings(
    reader: &mut Reader<'_>,
    document: &Document,
    at: &str,
    said: &file::Connection,
    (url, engine): (&str, Option<Engine>),
) -> Option<HttpSettings> {
    let keys = [
        ("auth", said.auth.is_some()),
        ("headers", said.headers.is_some()),
        ("allow_private", said.allow_private.is_some()),
        ("allow_unmeasured", said.allow_unmeasured.is_some()),
        ("connect_timeout", said.connect_timeout.is_some()),
        ("idle_timeout", said.idle_timeout.is_some()),
    ];
    if engine.is_some_and(|engine| engine != Engine::Http) {
        for (key, _) in keys.into_iter().filter(|(_, there)| *there) {
            let message = format!("`{key}` is for connections of HTTP, and the URL is of another kind");
            reader.error_of(document, "http-connection", &format!("{at}/{key}"), message, format!("remove `{key}`"));
        }
        return Some(HttpSettings::default());
    }
    let default = HttpSettings::default();
    let auth = match &said.auth {
        None => None,
        Some(said) => Some(auth(reader, document, &format!("{at}/auth"), said)?),
    };
    let mut headers = Vec::new();
    for (name, value) in said.headers.iter().flat_map(|entries| &entries.0) {
        let header_at = child(&format!("{at}/headers"), name);
        let lower = name.to_ascii_lowercase();
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) {
            reader.error_of(
                document,
                "http-header",
                &header_at,
                format!("`{name}` is no name of a header"),
                "write letters, digits and `-`",
            );
        } else if OWN_HEADERS.contains(&lower.as_str()) || (lower == "authorization" && auth.is_some()) {
            let message = format!("the header `{name}` is written by haul itself");
            reader.error_of(document, "http-header", &header_at, message, "remove it");
        }
        headers.push((name.clone(), Secret::new(reader.text_of(document, &header_at, value)?)));
    }
    for (key, said) in [("connect_timeout", &said.connect_timeout), ("idle_timeout", &said.idle_timeout)] {
        if said.as_ref().and_then(Duration::read).is_some_and(|length| length.is_zero()) {
            let message = "a time of zero would end at once";
            reader.error_of(document, "out-of-range", &format!("{at}/{key}"), message, "write a longer time, or remove the key");
        }
    }
    if let Some(host) = public_host(url).filter(|_| said.auth.is_some() && said.allow_private != Some(true)) {
        let problem =
            Diagnostic::warning("http-plain", format!("`auth` goes to {host} as it is, for everybody on the way to read and use"));
        let problem = document.at_key(problem, &format!("{at}/auth"), "");
        reader.problems.push(problem.help("write `https:` in the URL; `allow_private: true` says that the way is your own network"));
    }
    let length = |said: &Option<Duration>, default| said.as_ref().and_then(Duration::read).unwrap_or(default);
    Some(HttpSettings {
        auth,
        headers,
        allow_private: said.allow_private.unwrap_or(default.allow_private),
        allow_unmeasured: said.allow_unmeasured.unwrap_or(default.allow_unmeasured),
        connect_timeout: length(&said.connect_timeout, default.connect_timeout),
        idle_timeout: length(&said.idle_timeout, default.idle_timeout),
    })
}

/// The host of an `http:` URL that is not known to be near. A template may hide it.
fn public_host(url: &str) -> Option<String> {
    let url = Url::parse(url).ok().filter(|url| url.scheme() == "http")?;
    let near = match url.host()? {
        Host::Domain(name) => {
            name == "localhost" || [".localhost", ".local", ".internal"].iter().any(|end| name.ends_with(end)) || name.contains('{')
        }
        Host::Ipv4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
        Host::Ipv6(address) => address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local(),
    };
    (!near).then(|| url.host_str().unwrap_or_default().to_owned())
}

fn auth(reader: &mut Reader<'_>, document: &Document, at: &str, said: &file::Auth) -> Option<HttpAuth> {
    let help = "write `auth: { bearer: \"{{ env.API_TOKEN }}\" }`, or `auth: { user: …, password: … }`";
    match (&said.bearer, &said.user, &said.password) {
        (Some(token), None, None) => Some(HttpAuth::Bearer(Secret::new(reader.text_of(document, &format!("{at}/bearer"), token)?))),
        (None, Some(user), password) => {
            let user = reader.text_of(document, &format!("{at}/user"), user)?;
            let password = password.as_deref().unwrap_or_default();
            Some(HttpAuth::Basic(user, Secret::new(reader.text_of(document, &format!("{at}/password"), password)?)))
        }
        (Some(_), ..) => {
            reader.error_of(document, "http-auth", at, "`auth` proves who asks in one way, and this names two", help);
            None
        }
        (None, None, _) => {
            if !reader.broken(at) {
                reader.error_of(document, "http-auth", at, "`auth` names neither a token nor a user", help);
            }
            None
        }
    }
}
