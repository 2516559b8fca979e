//! The socket: one thread accepts, one thread serves each session.
//!
//! A session that sends what makes no sense, or whose thread panics, loses its connection; the others notice nothing.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::RecvFlags;

use crate::codec;
use crate::protocol::{HELLO, Hello, LAYOUT_VERSION, PROTOCOL_VERSION, REPLY, REQUEST, Reply, Request};
use crate::socket::{self, FrameBuffer};
use crate::worker::check::Checker;
use crate::worker::engine::Engine;
use crate::worker::history::Takeover;
use crate::worker::requests::Serving;

/// How long a new connection may take to say who it is.
const GREETING: Duration = Duration::from_secs(10);

/// How often it is looked whether somebody still waits for what became of an order.
const LOOK: Duration = Duration::from_millis(100);

/// Whom sessions meet.
#[derive(Clone)]
pub(crate) enum Door {
    Open(Arc<Engine>),
    /// Nobody is let in; whoever wants to know why may have the objects checked, or order a takeover where that can help.
    Closed {
        reply: Reply,
        checker: Checker,
        orders: Option<mpsc::Sender<Order>>,
    },
}

/// A session's order to take the bucket over, and where to tell what came of it: a sentence, or an error with its hint.
pub(crate) struct Order {
    pub takeover: Takeover,
    pub outcome: mpsc::Sender<Result<String, (String, String)>>,
}

/// The accepting thread; the socket's file goes when this is dropped.
pub(crate) struct Server {
    listener: Arc<UnixListener>,
    path: std::path::PathBuf,
    thread: Option<JoinHandle<()>>,
    sessions: SessionThreads,
}

/// The threads of sessions, to be waited for in the end.
#[derive(Clone, Default)]
pub(crate) struct SessionThreads(Arc<Mutex<Vec<JoinHandle<()>>>>);

impl SessionThreads {
    fn add(&self, thread: JoinHandle<()>) {
        let mut threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
    }

    /// Waits for all of them; their sockets must have been cut.
    pub(crate) fn join(&self) {
        let threads = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // What a session's thread panicked with was reported by the thread.
            let _ = thread.join();
        }
    }
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
        let sessions = SessionThreads::default();
        let started = sessions.clone();
        let thread = std::thread::Builder::new().name("kriya-accept".into()).spawn(move || {
            loop {
                let stream = match accepting.accept() {
                    Ok((stream, _)) => stream,
                    // The listener was shut down.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
                    // No descriptors, say: there will be some again.
                    Err(_) => {
                        std::thread::sleep(Duration::from_millis(50));
                        continue;
                    }
                };
                let door = door.clone();
                // Without a thread the connection is dropped, which its session takes for "not serving".
                let thread = std::thread::Builder::new().name("kriya-session".into()).spawn(move || meet(stream, door));
                if let Ok(thread) = thread {
                    started.add(thread);
                }
            }
        })?;
        Ok(Server { listener, path: socket.to_owned(), thread: Some(thread), sessions })
    }

    /// The threads of those who were let in, now or later.
    pub(crate) fn sessions(&self) -> SessionThreads {
        self.sessions.clone()
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
    let engine = match door {
        Door::Closed { reply, checker, orders } => {
            if let Ok(input) = greeted() {
                // Who is told so goes away, or asks for something that this tells the end of.
                let _ = say(&stream, &reply, &[]).and_then(|()| oblige(&stream, input, &checker, orders.as_ref()));
            }
            return;
        }
        Door::Open(engine) => engine,
    };
    let Some(guest) = engine.sessions.greet(&stream) else { return };
    let input = greeted();
    let seat = engine.sessions.seat(guest, input.is_ok());
    let Ok(input) = input else { return };
    let Some((slot, activity)) = seat else {
        let message = "the storage worker is stopping or has no room for another session".into();
        let _ = say(&stream, &Reply::NotServing { message }, &[]);
        return;
    };
    let ended = catch_unwind(AssertUnwindSafe(|| {
        welcome(&stream, &engine, slot)?;
        Serving::new(&engine, &stream, slot, &activity).serve(input)
    }));
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => report(&engine, &error),
        Err(_) => engine.complain("a thread that served a session panicked; the session was closed".into()),
    }
    engine.views.release(slot);
    engine.sessions.end(slot);
}

/// Serves the one request that somebody may make who is not let in.
fn oblige(
    stream: &UnixStream,
    mut input: FrameBuffer,
    checker: &Checker,
    orders: Option<&mpsc::Sender<Order>>,
) -> io::Result<()> {
    stream.set_read_timeout(Some(GREETING))?;
    let frame = input.next(|into| socket::receive_some(stream.as_fd(), into, None, RecvFlags::empty()))?;
    let Some((REQUEST, body)) = frame else { return Ok(()) };
    let reply = match codec::decode_prefix::<Request>("request", body) {
        Ok((Request::Check, _)) => Reply::Checked(checker.check()),
        Ok((Request::TakeOver { accept_loss }, _)) => obey(stream, Takeover::new(accept_loss), orders),
        _ => return Ok(()),
    };
    say(stream, &reply, &[])
}

/// Passes an order on and waits for what comes of it. Whoever goes away meanwhile withdraws it.
fn obey(stream: &UnixStream, takeover: Takeover, orders: Option<&mpsc::Sender<Order>>) -> Reply {
    let (outcome, told) = mpsc::channel();
    let withdrawn = Arc::clone(&takeover.withdrawn);
    let mut answer = match orders.and_then(|orders| orders.send(Order { takeover, outcome }).ok()) {
        Some(()) => told.recv_timeout(LOOK),
        None => Err(RecvTimeoutError::Disconnected),
    };
    while answer == Err(RecvTimeoutError::Timeout) {
        if socket::hung_up(stream.as_fd()) {
            withdrawn.store(true, Ordering::SeqCst);
        }
        answer = told.recv_timeout(LOOK);
    }
    match answer {
        Ok(Ok(sentence)) => Reply::TookOver { sentence },
        Ok(Err((message, hint))) => Reply::Failed { message, hint },
        Err(_) => Reply::Failed {
            message: "the storage worker takes no order for a takeover now".to_owned(),
            hint: String::new(),
        },
    }
}

fn welcome(stream: &UnixStream, engine: &Engine, slot: usize) -> io::Result<()> {
    engine.control.slot(slot).store(0, Ordering::SeqCst);
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
