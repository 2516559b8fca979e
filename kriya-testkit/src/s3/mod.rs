//! A server that speaks S3 over real HTTP, for tests and the demo: requests are checked (SigV4), conditional PUTs are
//! atomic, content lives in memory or in a folder, and it can be told to fail in every way that a network can.
//!
//! [`S3Server`] runs in this process on a runtime of its own; the program `kriya-s3` is the same for those who need one
//! that outlives its starter. What is promised to clients is tried by `tests/objects`.

mod control;
mod faults;
mod serve;
mod service;
mod shelf;
mod tls;

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use faults::Faults;
use shelf::Shelf;

use crate::fault::{Fault, Kind};

/// Key that a server accepts unless told otherwise: id and secret.
pub const KEY: (&str, &str) = ("kriya-test-key", "kriya-test-secret");

/// What a server is to be like.
#[derive(Debug, Clone, Default)]
pub struct S3Options {
    /// Keeps content in this folder; without it, in memory.
    pub folder: Option<PathBuf>,
    /// Port; without it, a free one.
    pub port: Option<u16>,
    /// Port of the control endpoint; without it, there is none. 0: a free one.
    pub control_port: Option<u16>,
    /// Buckets that are made if they do not exist.
    pub buckets: Vec<String>,
    /// Ignores the conditions of PUTs, as stores do that know none.
    pub unconditional: bool,
    /// Speaks HTTPS, with a certificate of an authority of its own.
    pub tls: bool,
}

/// A running server. It ends, connections and all, when this is dropped.
#[derive(Debug)]
pub struct S3Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    control: Option<SocketAddr>,
    /// Certificate of the authority, if it speaks HTTPS.
    authority: Option<String>,
    runtime: Option<tokio::runtime::Runtime>,
}

/// What the parts of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) shelf: Shelf,
    pub(crate) faults: Faults,
    keys: Mutex<HashMap<String, String>>,
    log: Mutex<Vec<String>>,
}

impl Shared {
    pub(crate) fn secret_of(&self, id: &str) -> Option<String> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(crate) fn note(&self, request: String) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    }
}

impl S3Server {
    /// A server in memory with one bucket.
    ///
    /// # Errors
    /// As [`S3Server::start`].
    pub fn with_bucket(bucket: &str) -> io::Result<S3Server> {
        S3Server::start(&S3Options { buckets: vec![bucket.to_owned()], ..S3Options::default() })
    }

    /// Starts a server on 127.0.0.1.
    ///
    /// # Errors
    /// The folder cannot be read, or the port is taken.
    pub fn start(options: &S3Options) -> io::Result<S3Server> {
        let shelf = Shelf::open(options.folder.clone(), options.unconditional)?;
        for bucket in &options.buckets {
            shelf.make_bucket(bucket)?;
        }
        let keys = HashMap::from([(KEY.0.to_owned(), KEY.1.to_owned())]);
        let shared =
            Arc::new(Shared { shelf, faults: Faults::default(), keys: Mutex::new(keys), log: Mutex::default() });
        let listen = |port: u16| -> io::Result<TcpListener> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = listen(options.port.unwrap_or(0))?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("kriya-s3")
            .enable_all()
            .build()?;
        let control = match options.control_port {
            Some(port) => {
                let listener = listen(port)?;
                let address = listener.local_addr()?;
                runtime.spawn(control::run(Arc::clone(&shared), listener));
                Some(address)
            }
            None => None,
        };
        let (acceptor, authority) = match options.tls {
            true => {
                let identity = tls::identity()?;
                (Some(identity.acceptor), Some(identity.authority))
            }
            false => (None, None),
        };
        runtime.spawn(serve::run(Arc::clone(&shared), listener, address, acceptor));
        Ok(S3Server { shared, address, control, authority, runtime: Some(runtime) })
    }

    /// Its address, as a client is given it.
    pub fn url(&self) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The certificate (PEM) of the authority that it is to be trusted by, if it speaks HTTPS.
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The address of its control endpoint, if it has one: `PUT /faults` with one fault per line, `GET /faults`.
    pub fn control_url(&self) -> Option<String> {
        self.control.map(|address| format!("http://{address}"))
    }

    /// From now on, fails like this; with an empty list, not at all. Counters begin anew.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.shared.faults.set(faults);
    }

    /// Refuses connections, and cuts those that there are, until [`S3Server::up`].
    pub fn down(&self) {
        self.set_faults(vec![Fault::always(Kind::Down)]);
    }

    /// Serves as it should.
    pub fn up(&self) {
        self.set_faults(Vec::new());
    }

    /// How often a fault of any kind struck.
    pub fn struck(&self) -> u64 {
        self.shared.faults.struck()
    }

    /// Accepts exactly these keys: (id, secret).
    pub fn set_keys(&self, keys: &[(&str, &str)]) {
        let keys = keys.iter().map(|(id, secret)| ((*id).to_owned(), (*secret).to_owned())).collect();
        *self.shared.keys.lock().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Makes a bucket, if it does not exist.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn make_bucket(&self, name: &str) -> io::Result<()> {
        self.shared.shelf.make_bucket(name)
    }

    /// Names of all objects of a bucket, in order.
    pub fn objects(&self, bucket: &str) -> Vec<String> {
        self.shared.shelf.names(bucket)
    }

    /// Requests that arrived so far, as `METHOD /path?query`.
    pub fn requests(&self) -> Vec<String> {
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // On a thread of its own, for a test that drops this may run on another runtime.
            let ending = std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(5)));
            let _ = ending.join();
        }
    }
}
