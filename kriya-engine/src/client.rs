//! A session with the worker: one socket, used by one thread of a backend, without threads of its own.
//!
//! Every request waits for its answer through [`Wait`](crate::Wait), which may give up or unwind (Postgres's cancel): while a request
//! is under way the session counts as broken, and stays so unless the answer arrived completely. A broken session is
//! dropped and another one made; what it wrote under its transaction then depends on [`Session::generation`], which the
//! owner compares before it commits.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lsmstore::{Batch, View};
use rustix::net::SendFlags;

use crate::answers::{Built, IndexDefinition, IndexDeleted, IndexWritten, Progress, Written};
use crate::client_error::ClientError;
use crate::codec;
use crate::control::{Control, SLOTS};
use crate::error::FormatError;
use crate::index::{IndexReader, NewEntry, delete_batch, index_batch};
use crate::line::{Line, Wait, not_serving};
use crate::protocol::{
    Check, FlushReport, HELLO, Hello, LAYOUT_VERSION, PROTOCOL_VERSION, REQUEST, Reply, Request, Status,
};
use crate::reader::Reader;
use crate::socket::{self, FrameBuffer};

/// A connection whose greeting was answered: the answer, and what came behind it.
type Greeted = (UnixStream, Reply, FrameBuffer, VecDeque<OwnedFd>);

/// Bytes of hints that may wait, but for the ends of transactions.
const MAX_HINTS: usize = 64 << 10;

/// A session; see the module's documentation.
#[derive(Debug)]
pub struct Session {
    socket: UnixStream,
    input: FrameBuffer,
    output: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
    control: Arc<Control>,
    slot: usize,
    generation: u64,
    incarnation: u32,
    broken: bool,
    /// Hints that could not be sent, as frames: they go before the next request.
    hints: Vec<u8>,
    reader: Reader,
}

impl Session {
    /// Connects to the worker's socket as process `pid`.
    ///
    /// # Errors
    /// [`ClientError::NotServing`], [`ClientError::Unavailable`]: try again later. [`ClientError::Refused`]: the worker
    /// cannot use its bucket.
    /// [`ClientError::OtherVersion`]: the server runs another build.
    pub fn connect(socket: &Path, pid: u32, wait: &mut dyn Wait) -> Result<Session, ClientError> {
        let (stream, answer, input, mut descriptors) = Session::greet(socket, pid, wait)?;
        match answer {
            Reply::Welcome { generation, incarnation, slot, mirror, segments } => {
                let slot = usize::try_from(slot)
                    .ok()
                    .filter(|slot| *slot < SLOTS)
                    .ok_or_else(|| FormatError::new("welcome", format!("slot {slot} does not exist")))?;
                let control = descriptors
                    .pop_front()
                    .ok_or_else(|| FormatError::new("welcome", "the control region's descriptor is missing"))?;
                let control = Arc::new(Control::open(control.as_fd()).map_err(ClientError::Io)?);
                let reader = Reader::new(PathBuf::from(mirror), PathBuf::from(segments));
                Ok(Session {
                    socket: stream,
                    input,
                    output: Vec::new(),
                    descriptors,
                    control,
                    slot,
                    generation,
                    incarnation,
                    broken: false,
                    hints: Vec::new(),
                    reader,
                })
            }
            Reply::Refused { message, hint } => Err(ClientError::Refused { message, hint }),
            Reply::Unavailable { message, hint } => Err(ClientError::Unavailable { message, hint }),
            other => Err(unexpected(&other)),
        }
    }

    /// Orders the worker to take over a bucket that it refused; waits until that is done. Returns what came of it in a
    /// sentence.
    ///
    /// # Errors
    /// [`ClientError::Worker`] if the worker uses its bucket or cannot take it; the others as for [`Session::connect`].
    pub fn take_over(socket: &Path, accept_loss: bool, wait: &mut dyn Wait) -> Result<String, ClientError> {
        let (stream, answer, mut input, mut descriptors) = Session::greet(socket, std::process::id(), wait)?;
        match answer {
            Reply::Refused { .. } => {}
            Reply::Unavailable { message, hint } => return Err(ClientError::Unavailable { message, hint }),
            Reply::Welcome { .. } => {
                return Err(ClientError::Worker {
                    message: "this server uses its store: there is nothing to take over".into(),
                    hint: String::new(),
                });
            }
            other => return Err(unexpected(&other)),
        }
        let order = codec::encode(&Request::TakeOver { accept_loss });
        let header = socket::header(REQUEST, order.len()).map_err(ClientError::Io)?;
        let mut line = Line { socket: &stream, wait };
        let answer = line.send(&[&header, &order]).and_then(|()| line.receive(&mut input, &mut descriptors))?;
        match answer.0 {
            Reply::TookOver { sentence } => Ok(sentence),
            Reply::Failed { message, hint } => Err(ClientError::Worker { message, hint }),
            other => Err(unexpected(&other)),
        }
    }

    /// Says who we are and waits to hear whether we are welcome.
    pub(crate) fn greet(socket: &Path, pid: u32, wait: &mut dyn Wait) -> Result<Greeted, ClientError> {
        let (path, _folder) = socket::short_path(socket).map_err(not_serving)?;
        let stream = UnixStream::connect(path).map_err(not_serving)?;
        stream.set_nonblocking(true).map_err(ClientError::Io)?;
        let mut line = Line { socket: &stream, wait };
        let hello = Hello { protocol: PROTOCOL_VERSION, layout: LAYOUT_VERSION, pid }.encode();
        let header = socket::header(HELLO, hello.len()).map_err(ClientError::Io)?;
        let (mut input, mut descriptors) = (FrameBuffer::new(), VecDeque::new());
        let answer = line.send(&[&header, &hello]).and_then(|()| line.receive(&mut input, &mut descriptors)).map_err(
            |error| match error {
                ClientError::Gone => ClientError::NotServing("the worker closed the connection".into()),
                other => other,
            },
        )?;
        match answer.0 {
            Reply::NotServing { message } => Err(ClientError::NotServing(message)),
            Reply::OtherVersion { protocol, layout } => {
                Err(ClientError::OtherVersion { mine: (PROTOCOL_VERSION, LAYOUT_VERSION), worker: (protocol, layout) })
            }
            other => Ok((stream, other, input, descriptors)),
        }
    }

    /// Generation of the worker: whatever it gave out or acknowledged holds under this generation alone.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Incarnation of the store.
    pub fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// Whether the session can be used and the worker is still the one it was connected to. Costs one poll(2).
    pub fn alive(&self) -> bool {
        if self.broken || self.control.generation() != self.generation {
            return false;
        }
        // Between requests the worker says nothing: whatever is there is the end.
        !socket::hung_up(self.socket.as_fd())
    }

    /// Whether the worker takes new writing transactions; while it stops, those that run may finish.
    pub fn serving(&self) -> bool {
        self.control.serving()
    }

    /// A new id for a table or an index; never given out before. `None`: the store is full, ask again later.
    ///
    /// # Errors
    /// [`ClientError`]; so for all requests.
    pub fn new_id(&mut self, wait: &mut dyn Wait) -> Result<Option<u64>, ClientError> {
        match self.call(&Request::NewId { generation: self.generation }, &[], wait)? {
            Reply::Id(id) => Ok(Some(id)),
            Reply::Busy => Ok(None),
            other => Err(unexpected(&other)),
        }
    }

    /// A run of `count` row numbers of a table, never given out before. At most 1,048,576. `None` as for
    /// [`Session::new_id`].
    ///
    /// # Errors
    /// As [`Session::new_id`].
    pub fn lease_tids(
        &mut self,
        table: u64,
        count: u32,
        wait: &mut dyn Wait,
    ) -> Result<Option<Range<u64>>, ClientError> {
        match self.call(&Request::LeaseTids { generation: self.generation, table, count }, &[], wait)? {
            Reply::Tids { first, count } => Ok(Some(first..first.saturating_add(count.into()))),
            Reply::Busy => Ok(None),
            other => Err(unexpected(&other)),
        }
    }

    /// Writes a batch if every check holds, all or nothing; when this returns [`Written::At`] everybody can read it.
    /// `generation` is that under which the caller took ids and row numbers.
    ///
    /// # Errors
    /// [`ClientError::Generation`] if the worker is another one by now.
    pub fn write(
        &mut self,
        generation: u64,
        batch: &Batch,
        checks: &[Check],
        wait: &mut dyn Wait,
    ) -> Result<Written, ClientError> {
        let request = Request::Write { generation, checks: checks.to_vec(), change: None };
        match self.call(&request, &[batch.as_bytes()], wait)? {
            Reply::Written { first } => Ok(Written::At(first)),
            Reply::Lost => Ok(Written::Lost),
            Reply::Busy => Ok(Written::Busy),
            other => Err(unexpected(&other)),
        }
    }

    /// Adds entries to an index: found by every search that starts after this returns.
    ///
    /// # Errors
    /// As [`Session::write`]; [`ClientError::NoSuchIndex`]; vectors that are not finite.
    pub fn index_insert(
        &mut self,
        generation: u64,
        index: u64,
        entries: &[NewEntry<'_>],
        wait: &mut dyn Wait,
    ) -> Result<IndexWritten, ClientError> {
        let dim = entries.first().map_or(0, NewEntry::dim);
        if let Some(other) = entries.iter().find(|entry| entry.dim() != dim) {
            return Ok(IndexWritten::Dimension { expected: dim as u32, got: other.dim() as u32 });
        }
        let Ok(dim16) = u16::try_from(dim) else {
            return Ok(IndexWritten::Dimension {
                expected: u16::MAX.into(),
                got: u32::try_from(dim).unwrap_or(u32::MAX),
            });
        };
        let mut floats = Vec::new();
        let heads = entries.iter().map(|entry| entry.head(&mut floats)).collect();
        let request = Request::IndexInsert { generation, index, dim: dim16, entries: heads };
        match self.call(&request, &[&floats], wait)? {
            Reply::IndexWritten { first_entry, first } => {
                Ok(IndexWritten::At { first_entry, batch: index_batch(index, first_entry, entries)?, first })
            }
            Reply::Dimension { expected, got } => Ok(IndexWritten::Dimension { expected, got }),
            Reply::Busy => Ok(IndexWritten::Busy),
            Reply::NoSuchIndex => Err(ClientError::NoSuchIndex(index)),
            other => Err(unexpected(&other)),
        }
    }

    /// Deletes entries of an index, by their numbers, for good and for everybody.
    ///
    /// # Errors
    /// As [`Session::write`].
    pub fn index_delete(
        &mut self,
        generation: u64,
        index: u64,
        entries: &[u64],
        wait: &mut dyn Wait,
    ) -> Result<IndexDeleted, ClientError> {
        let request = Request::IndexDelete { generation, index, entries: entries.to_vec() };
        match self.call(&request, &[], wait)? {
            Reply::Written { first } => Ok(IndexDeleted::At { batch: delete_batch(index, entries), first }),
            Reply::Busy => Ok(IndexDeleted::Busy),
            other => Err(unexpected(&other)),
        }
    }

    /// Tells the worker that the transaction is over: a hint, which never waits and never fails.
    pub fn transaction_ended(&mut self) {
        self.hint(&Request::TransactionEnded);
    }

    /// Tells the worker that subtransactions have rolled back: a hint as [`Session::transaction_ended`], to be left out at
    /// will, for the worker finds out when it matters.
    pub fn subtransactions_ended(&mut self, xids: Vec<u64>) {
        if self.hints.len() < MAX_HINTS {
            self.hint(&Request::SubtransactionsEnded { xids });
        }
    }

    fn hint(&mut self, hint: &Request) {
        if self.broken {
            return;
        }
        let body = codec::encode(hint);
        let Ok(header) = socket::header(REQUEST, body.len()) else { return };
        self.hints.extend_from_slice(&header);
        self.hints.extend_from_slice(&body);
        match socket::send_some(self.socket.as_fd(), &[&self.hints], 0, &[], SendFlags::DONTWAIT) {
            Ok(sent) => {
                self.broken = sent != self.hints.len();
                self.hints.clear();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.broken = true,
        }
    }

    /// The newest view, pinned. A few atomic operations when nothing has moved since the last call.
    ///
    /// # Errors
    /// As [`Session::new_id`]; files or memory that cannot be mapped.
    pub fn view(&mut self, wait: &mut dyn Wait) -> Result<Arc<View>, ClientError> {
        if self.broken {
            return Err(ClientError::Broken);
        }
        if let Some((number, view)) = self.reader.current() {
            let slot = self.control.slot(self.slot);
            slot.store(number, Ordering::SeqCst);
            if self.control.number() == number {
                return Ok(view);
            }
        }
        let known = self.reader.memtables();
        let (reply, raw) = self.call_with_regions(&Request::View { known }, wait)?;
        let Reply::View { number } = reply else { return Err(unexpected(&reply)) };
        self.reader.open_view(number, &raw)
    }

    /// Lets go of the view: at the end of a statement or transaction. Maps stay, for the next call of
    /// [`Session::view`].
    pub fn unpin(&mut self) {
        self.control.slot(self.slot).store(0, Ordering::SeqCst);
        if self.reader.current().is_some_and(|(number, _)| number != self.control.number()) {
            self.reader.forget();
        }
    }

    /// What searches an index, of the newest view (which gets pinned as by [`Session::view`]).
    ///
    /// # Errors
    /// As [`Session::view`]; [`ClientError::NoSuchIndex`].
    pub fn index(&mut self, id: u64, wait: &mut dyn Wait) -> Result<Arc<IndexReader>, ClientError> {
        // The view can move between the two requests; it does so rarely, so this ends.
        loop {
            self.view(wait)?;
            let Some((view, _)) = self.reader.current() else { return Err(ClientError::Broken) };
            if let Some(index) = self.reader.index(id) {
                return Ok(index);
            }
            let known = self.reader.index_regions(id);
            let (reply, _) = self.call_with_regions(&Request::Index { view, index: id, known }, wait)?;
            match reply {
                Reply::Index { metric, sealed, active } => {
                    return self.reader.open_index(id, metric, &sealed, &active);
                }
                Reply::ViewMoved => self.reader.forget_view(),
                Reply::NoSuchIndex => return Err(ClientError::NoSuchIndex(id)),
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Starts the build of an index; one at a time in a session. Then come [`Session::build_rows`] as often as needed and
    /// [`Session::build_end`]; a session that ends before has built nothing.
    ///
    /// # Errors
    /// As [`Session::write`]; parameters out of range.
    pub fn build_begin(
        &mut self,
        generation: u64,
        definition: &IndexDefinition,
        wait: &mut dyn Wait,
    ) -> Result<(), ClientError> {
        let request = Request::BuildBegin {
            generation,
            index: definition.id,
            description: definition.description.clone(),
            estimated_rows: definition.estimated_rows,
        };
        self.done(&request, &[], wait)
    }

    /// Rows of an index that is being built: `tids.len()` vectors one after the other in `vectors`. A few thousand rows,
    /// or a MiB, at a time are best. Vectors that have no direction are left out under cosine.
    ///
    /// # Errors
    /// As [`Session::new_id`]; vectors of another dimension or not finite end the build.
    pub fn build_rows(&mut self, tids: &[u64], vectors: &[f32], wait: &mut dyn Wait) -> Result<(), ClientError> {
        if tids.is_empty() {
            return Ok(());
        }
        let dim = u16::try_from(vectors.len() / tids.len())
            .ok()
            .filter(|dim| usize::from(*dim) * tids.len() == vectors.len());
        let (Some(dim), Ok(count)) = (dim, u32::try_from(tids.len())) else {
            return Err(ClientError::Format(FormatError::new(
                "chunk of rows",
                format!("{} floats do not make {} vectors", vectors.len(), tids.len()),
            )));
        };
        let mut raw = Vec::with_capacity(tids.len() * 8 + vectors.len() * 4);
        tids.iter().for_each(|tid| raw.extend_from_slice(&tid.to_le_bytes()));
        vectors.iter().for_each(|value| raw.extend_from_slice(&value.to_le_bytes()));
        self.done(&Request::BuildRows { count, dim }, &[&raw], wait)
    }

    /// Builds, uploads and publishes the index; `report` is told how far it is. Interrupting it cancels the build.
    ///
    /// # Errors
    /// As [`Session::new_id`]; the object store failed.
    pub fn build_end(&mut self, report: &mut dyn FnMut(Progress), wait: &mut dyn Wait) -> Result<Built, ClientError> {
        self.send(&Request::BuildEnd, &[], wait)?;
        loop {
            match self.receive(wait)? {
                (Reply::Progress { done, total }, _) => {
                    // The answer is still to come: unwinding out of the report must leave a broken session.
                    self.broken = true;
                    report(Progress { done, total });
                }
                (Reply::Built { first }, raw) => {
                    let batch = Batch::decode(&raw).map_err(|error| FormatError::new("batch", error.to_string()))?;
                    return Ok(Built { batch, first });
                }
                (other, _) => return Err(unexpected(&other)),
            }
        }
    }

    /// Gives a build up.
    ///
    /// # Errors
    /// As [`Session::new_id`].
    pub fn build_abort(&mut self, wait: &mut dyn Wait) -> Result<(), ClientError> {
        self.done(&Request::BuildAbort, &[], wait)
    }

    /// Makes everything written so far durable in the object store.
    ///
    /// # Errors
    /// As [`Session::new_id`]; the object store failed.
    pub fn flush(&mut self, wait: &mut dyn Wait) -> Result<FlushReport, ClientError> {
        match self.call(&Request::Flush, &[], wait)? {
            Reply::Flushed(report) => Ok(report),
            other => Err(unexpected(&other)),
        }
    }

    /// What the worker says about itself.
    ///
    /// # Errors
    /// As [`Session::new_id`].
    pub fn status(&mut self, wait: &mut dyn Wait) -> Result<Status, ClientError> {
        match self.call(&Request::Status, &[], wait)? {
            Reply::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) fn done(&mut self, request: &Request, raw: &[&[u8]], wait: &mut dyn Wait) -> Result<(), ClientError> {
        match self.call(request, raw, wait)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) fn call(&mut self, request: &Request, raw: &[&[u8]], wait: &mut dyn Wait) -> Result<Reply, ClientError> {
        self.send(request, raw, wait)?;
        Ok(self.receive(wait)?.0)
    }

    /// Takes in the regions that come before the answer.
    fn call_with_regions(&mut self, request: &Request, wait: &mut dyn Wait) -> Result<(Reply, Vec<u8>), ClientError> {
        self.send(request, &[], wait)?;
        loop {
            match self.receive(wait)? {
                (Reply::Regions(regions), _) => {
                    self.broken = true;
                    for (id, capacity) in regions {
                        let descriptor = self
                            .descriptors
                            .pop_front()
                            .ok_or_else(|| FormatError::new("list of regions", "a descriptor is missing"))?;
                        self.reader.map_region(id, capacity, descriptor.as_fd())?;
                    }
                }
                other => return Ok(other),
            }
        }
    }

    /// From here until the answer has arrived the session is broken.
    fn send(&mut self, request: &Request, raw: &[&[u8]], wait: &mut dyn Wait) -> Result<(), ClientError> {
        if self.broken {
            return Err(ClientError::Broken);
        }
        self.output.clear();
        self.output.append(&mut self.hints);
        let body = codec::encode(request);
        let length = body.len() + raw.iter().map(|part| part.len()).sum::<usize>();
        self.output.extend_from_slice(&socket::header(REQUEST, length).map_err(ClientError::Io)?);
        self.output.extend_from_slice(&body);
        self.broken = true;
        let mut parts: Vec<&[u8]> = vec![&self.output];
        parts.extend_from_slice(raw);
        Line { socket: &self.socket, wait }.send(&parts)?;
        Ok(())
    }

    fn receive(&mut self, wait: &mut dyn Wait) -> Result<(Reply, Vec<u8>), ClientError> {
        let (reply, raw) = Line { socket: &self.socket, wait }.receive(&mut self.input, &mut self.descriptors)?;
        self.broken = false;
        match reply {
            Reply::Failed { message, hint } => Err(ClientError::Worker { message, hint }),
            Reply::Generation { current } => Err(ClientError::Generation { current }),
            Reply::Stopping => Err(ClientError::Stopping),
            other => Ok((other, raw)),
        }
    }
}

pub(crate) fn unexpected(reply: &Reply) -> ClientError {
    let text = format!("{reply:?}");
    let short: String = text.chars().take(40).collect();
    FormatError::new("reply", format!("{short} does not answer the request")).into()
}
