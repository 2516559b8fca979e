//! The socket: one thread accepts, one thread serves each session.
//!
//! A session that sends what makes no sense, or whose thread panics, loses its connection; the others notice nothing.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::RecvFlags;

use crate::codec;
use crate::protocol::{HELLO, Hello, LAYOUT_VERSION, PROTOCOL_VERSION, REPLY, Reply};
use crate::socket::{self, FrameBuffer};
use crate::worker::engine::Engine;
use crate::worker::requests::Serving;

/// How long a new connection may take to say who it is.
const GREETING: Duration = Duration::from_secs(10);

/// Whom sessions meet.
#[derive(Clone)]
pub(crate) enum Door {
    Open(Arc<Engine>),
    Refused { message: String, hint: String },
}

/// The accepting thread; the socket's file goes when this is dropped.
pub(crate) struct Server {
    listener: Arc<UnixListener>,
    path: std::path::PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves on `socket`. The caller holds the lock of the folder, so a file that is there is left over.
    pub(crate) fn start(socket: &Path, door: Door) -> io::Result<Server> {
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (path, _folder) = socket::short_path(socket)?;
        let listener = Arc::new(UnixListener::bind(path)?);
        let accepting = Arc::clone(&listener);
        let thread = std::thread::Builder::new().name("kriya-accept".into()).spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let door = door.clone();
                // Without a thread the connection is dropped, which its session takes for "not serving".
                let _ = std::thread::Builder::new().name("kriya-session".into()).spawn(move || meet(stream, door));
            }
        })?;
        Ok(Server { listener, path: socket.to_owned(), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        // Wakes the accepting thread with an error.
        let _ = rustix::net::shutdown(self.listener.as_fd(), rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn say(stream: &UnixStream, reply: &Reply, descriptors: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<()> {
    socket::send_frame(stream.as_fd(), REPLY, &[&codec::encode(reply)], descriptors)
}

fn meet(stream: UnixStream, door: Door) {
    let stream = Arc::new(stream);
    let greeted = || -> io::Result<FrameBuffer> {
        stream.set_read_timeout(Some(GREETING))?;
        let mut input = FrameBuffer::new();
        let hello = {
            let frame = input.next(|into| socket::receive_some(stream.as_fd(), into, None, RecvFlags::empty()))?;
            let (kind, body) = frame.ok_or(io::ErrorKind::UnexpectedEof)?;
            if kind != HELLO {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a session begins with a greeting"));
            }
            Hello::parse(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?
        };
        stream.set_read_timeout(None)?;
        if (hello.protocol, hello.layout) != (PROTOCOL_VERSION, LAYOUT_VERSION) {
            say(&stream, &Reply::OtherVersion { protocol: PROTOCOL_VERSION, layout: LAYOUT_VERSION }, &[])?;
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(input)
    };
    let Ok(input) = greeted() else { return };
    let engine = match door {
        Door::Refused { message, hint } => {
            let _ = say(&stream, &Reply::Refused { message, hint }, &[]);
            return;
        }
        Door::Open(engine) => engine,
    };
    let Some(slot) = engine.sessions.begin(&stream) else {
        let message = "the storage worker is stopping or has no room for another session".into();
        let _ = say(&stream, &Reply::NotServing { message }, &[]);
        return;
    };
    let ended = catch_unwind(AssertUnwindSafe(|| {
        welcome(&stream, &engine, slot)?;
        Serving::new(&engine, &stream, slot).serve(input)
    }));
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => report(&engine, &error),
        Err(_) => engine.complain("a thread that served a session panicked; the session was closed".into()),
    }
    engine.views.release(slot);
    engine.sessions.end(slot);
}

fn welcome(stream: &UnixStream, engine: &Engine, slot: usize) -> io::Result<()> {
    engine.control.slot(slot).store(0, std::sync::atomic::Ordering::SeqCst);
    let control = engine.control.descriptor()?;
    let reply = Reply::Welcome {
        generation: engine.generation(),
        incarnation: engine.log.incarnation,
        slot: slot as u32,
        mirror: engine.config.mirror_dir().to_string_lossy().into_owned(),
        segments: engine.segments.folder.to_string_lossy().into_owned(),
    };
    say(stream, &reply, &[control.as_fd()])
}

fn report(engine: &Engine, error: &io::Error) {
    match error.kind() {
        // A backend that ended, or that we cut off.
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {}
        _ => engine.complain(format!("a session was closed: {error}")),
    }
}
