//! One connection to files: its URL, and the sources, sinks and reject logs below it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};
use url::{Host, Url};

use super::rejects::RejectLog;
use super::roll::RollSink;
use super::sink::FileSink;
use super::source::FileSource;
use super::store::{Local, Object, Store, parent};
use crate::connectors::{Sink, Source};
use crate::define::pipeline::{Connection, FilesSink, FilesSource};
use crate::failure::Failure;
use crate::tasks;

/// Tries of one request to an object store before the failure is the stage's to retry.
const REQUEST_RETRIES: usize = 3;

/// A place that holds files, opened once and shared by all that use the connection. Cheap to make; touches nothing until it is used.
pub struct Root {
    store: Arc<dyn Store>,
}

impl Root {
    /// Takes `file:relative` (to `base`), `file:///absolute`, and
    /// `s3://bucket/prefix?region=…&endpoint=…&allow_http=true`. Credentials of S3 come from the usual `AWS_…` variables. The failure is
    /// permanent and names the connection, never the URL, which may hold a secret.
    pub fn new(connection: &Connection, base: &Path) -> Result<Arc<Self>, Failure> {
        let text = connection.url.reveal();
        let place = |failure: Failure| failure.during(format_args!("connection `{}`", connection.name));
        let store: Arc<dyn Store> = match text.split_once(':') {
            Some(("file", rest)) => Arc::new(Local::new(local_root(rest, base).map_err(place)?)),
            Some(("s3", _)) => Arc::new(bucket(text).map_err(place)?),
            _ => {
                let failure = Failure::permanent("the URL is neither `file:` nor `s3:`");
                return Err(place(failure.help("files are reached by `file:folder`, `file:///folder` or `s3://bucket/prefix`")));
            }
        };
        Ok(Arc::new(Self { store }))
    }

    /// The files of the root, and of folders up to `depth` below it, sorted by path. Hidden ones are left out.
    pub async fn list(&self, depth: usize) -> Result<Vec<String>, Failure> {
        let store = Arc::clone(&self.store);
        let mut paths: Vec<String> = tasks::blocking(move || store.list("", depth)).await?.into_iter().map(|found| found.path).collect();
        paths.retain(|path| !parent(path).1.starts_with('.'));
        paths.sort();
        Ok(paths)
    }

    /// What a stage reads.
    pub fn source(&self, source: &FilesSource) -> Arc<dyn Source> {
        Arc::new(FileSource::new(Arc::clone(&self.store), source.clone()))
    }

    /// What a stage writes.
    pub fn sink(&self, sink: &FilesSink) -> Arc<dyn Sink> {
        let sink = FileSink::new(Arc::clone(&self.store), sink.clone());
        if sink.target.spec.roll.is_some() { Arc::new(RollSink { target: sink.target }) } else { Arc::new(sink) }
    }

    /// The NDJSON file that gets a stage's bad rows. A path that may not be named is a permanent failure.
    pub fn rejects(&self, path: &str) -> Result<RejectLog, Failure> {
        RejectLog::new(Arc::clone(&self.store), path.to_owned())
    }
}

fn local_root(rest: &str, base: &Path) -> Result<std::path::PathBuf, Failure> {
    if !rest.starts_with("//") {
        return Ok(base.join(rest));
    }
    let url = Url::parse(&format!("file:{rest}")).map_err(|error| Failure::permanent("the URL cannot be read").cause(error))?;
    url.to_file_path().map_err(|()| {
        Failure::permanent("the file URL names a host")
            .help("write `file:///absolute/folder` with three slashes, or `file:relative/folder`")
    })
}

fn bucket(text: &str) -> Result<Object, Failure> {
    let url = Url::parse(text).map_err(|error| Failure::permanent("the URL cannot be read").cause(error))?;
    let name = url.host_str().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Failure::permanent("the URL names no bucket").help("write `s3://bucket/prefix`"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Failure::permanent("the URL holds credentials").help("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"));
    }
    let mut endpoint = None;
    let mut allow_http = false;
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(name).with_retry(RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: REQUEST_RETRIES,
        retry_timeout: Duration::from_secs(30),
    });
    for (key, value) in url.query_pairs() {
        match &*key {
            "region" => builder = builder.with_region(value),
            "endpoint" => endpoint = Some(value.into_owned()),
            "allow_http" => {
                allow_http = value.parse().map_err(|_| Failure::permanent("`allow_http` in the URL is neither `true` nor `false`"))?;
            }
            other => {
                return Err(Failure::permanent(format!("the URL has the unknown option `{other}`"))
                    .help("the options are `region`, `endpoint` and `allow_http`"));
            }
        }
    }
    if let Some(endpoint) = endpoint {
        let address = Url::parse(&endpoint).map_err(|error| Failure::permanent("the `endpoint` in the URL cannot be read").cause(error))?;
        if address.scheme() == "http" && !allow_http && !loopback(&address) {
            return Err(Failure::permanent("the `endpoint` in the URL is plain http to another machine, which sends data in the clear")
                .help("use https, or add `allow_http=true` to the URL"));
        }
        allow_http |= address.scheme() == "http";
        builder = builder.with_endpoint(endpoint).with_virtual_hosted_style_request(false);
    }
    let store = builder.with_allow_http(allow_http).build();
    let store: Arc<dyn ObjectStore> = Arc::new(store.map_err(|error| Failure::permanent("the bucket cannot be set up").cause(error))?);
    let prefix = url.path().trim_matches('/');
    if !prefix.is_empty() {
        super::paths::check(prefix).map_err(Failure::permanent)?;
    }
    Ok(Object::new(store, prefix, format!("s3://{name}/{prefix}")))
}

fn loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
