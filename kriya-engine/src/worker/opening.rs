//! From a worker that was started to one that serves: the store is opened, again and again while its objects cannot be
//! reached; who comes meanwhile is told why nothing is served, may have the objects checked, and may order the takeover
//! of a bucket that was refused.

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::control::Control;
use crate::protocol::Reply;
use crate::worker::cache;
use crate::worker::check::Checker;
use crate::worker::config::WorkerConfig;
use crate::worker::engine::{Ending, Engine, Signals};
use crate::worker::host::{Host, Level};
use crate::worker::kept::{self, Reminder};
use crate::worker::live::Live;
use crate::worker::server::{Door, Order, Server};
use crate::worker::startup::{self, StartError};
use crate::worker::{WorkerError, serve};

/// Pause between two attempts to open the store, doubled up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// What is needed to open a store.
pub(crate) struct Opening<'a> {
    pub started: &'a WorkerConfig,
    pub live: &'a Arc<Live>,
    pub host: &'a Arc<dyn Host>,
    pub signals: &'a Arc<Signals>,
    pub checker: Checker,
}

impl Opening<'_> {
    fn socket(&self) -> PathBuf {
        WorkerConfig::socket(&self.started.dir)
    }

    /// Opens the store as soon as that can be done, and serves it to the end.
    pub(crate) fn open_and_serve(&self) -> Result<(), WorkerError> {
        let _cache = match cache::take(self.started) {
            Ok(cache) => cache,
            Err(refusal) => return self.refuse_until_the_end(&refusal),
        };
        let control = Arc::new(Control::create().map_err(WorkerError::new)?);
        let (mut order, mut door, mut told, mut pause) = (None, None, String::new(), RETRY.0);
        let mut reminder = Reminder::new(Instant::now());
        loop {
            self.live.take_change();
            // The folder of the mirrors was taken when the worker started.
            let config = WorkerConfig { cache_dir: self.started.cache_dir.clone(), ..self.live.asked() };
            let place = config.place();
            let takeover = order.as_ref().map(|order: &Order| order.takeover.clone());
            let opened = startup::open(
                config,
                Arc::clone(self.live),
                Arc::clone(self.host),
                &self.checker.runtime,
                Arc::clone(&control),
                Arc::clone(self.signals),
                takeover.as_ref(),
            );
            if let Some(order) = order.take() {
                // Who gave the order may be gone.
                let _ = order.outcome.send(outcome(&opened));
            }
            let (why, hint) = match opened {
                _ if self.signals.ending() != Ending::No => return Ok(()),
                Ok(engine) => {
                    drop(door);
                    return serve(Arc::new(engine), &self.socket());
                }
                Err(StartError::Failed(message)) => return Err(WorkerError::new(message)),
                Err(refusal @ StartError::Refused { .. }) => {
                    drop(door.take());
                    told.clear();
                    order = Some(self.refuse(&refusal)?);
                    continue;
                }
                Err(StartError::Unavailable { why, hint }) => (why, hint),
            };
            let message = format!("{place} cannot be used: {why}");
            if message != told || door.is_none() {
                self.host.report(Level::Warning, &format!("{message}; trying again until it can"));
                reminder = Reminder::new(Instant::now());
                // The old door's file must be gone before the new one's is made.
                drop(door.take());
                let reply = Reply::Unavailable { message: message.clone(), hint: hint.clone() };
                door = Some(self.close(reply, None)?);
                told = message;
            }
            reminder.remind(&**self.host, &told, &hint);
            if self.signals.ending.wait(pause) {
                pause = RETRY.0;
            }
            if self.signals.ending() != Ending::No {
                return Ok(());
            }
            pause = (pause * 2).min(RETRY.1);
        }
    }

    fn close(&self, reply: Reply, orders: Option<mpsc::Sender<Order>>) -> Result<Server, WorkerError> {
        let door = Door::Closed { reply, checker: self.checker.clone(), orders };
        Server::start(&self.socket(), door).map_err(WorkerError::new)
    }

    /// Tells whoever comes why nothing is served, until somebody orders a takeover.
    fn refuse(&self, refusal: &StartError) -> Result<Order, WorkerError> {
        let (orders, ordered) = mpsc::channel();
        let (message, hint, reply) = self.refusal(refusal);
        let _door = self.close(reply, Some(orders))?;
        let mut reminder = Reminder::new(Instant::now());
        while self.goes_on(&message)? {
            reminder.remind(&**self.host, &message, &hint);
            if let Ok(order) = ordered.recv_timeout(Duration::from_millis(200)) {
                return Ok(order);
            }
        }
        Err(WorkerError::new(message))
    }

    /// As [`Opening::refuse`], where a takeover would change nothing.
    fn refuse_until_the_end(&self, refusal: &StartError) -> Result<(), WorkerError> {
        let (message, hint, reply) = self.refusal(refusal);
        let _door = self.close(reply, None)?;
        let mut reminder = Reminder::new(Instant::now());
        while self.goes_on(&message)? {
            reminder.remind(&**self.host, &message, &hint);
            self.signals.ending.wait(Duration::from_secs(60));
        }
        Err(WorkerError::new(message))
    }

    fn refusal(&self, refusal: &StartError) -> (String, String, Reply) {
        let message = refusal.why().to_owned();
        let hint = if let StartError::Refused { hint, .. } = refusal { hint.clone() } else { String::new() };
        let told = kept::warning(&**self.host, &format!("the store cannot be used: {message}"), &hint);
        self.host.report(Level::Warning, &told);
        (message.clone(), hint.clone(), Reply::Refused { message, hint })
    }

    /// Whether a refusal stands. With other settings it may be another store: the worker ends, to be started again.
    fn goes_on(&self, message: &str) -> Result<bool, WorkerError> {
        if self.live.take_change() && !self.live.asked().is_place_of(self.started) {
            return Err(WorkerError::new(format!("{message}; the settings have changed, starting again")));
        }
        Ok(self.signals.ending() == Ending::No)
    }
}

/// What is told of a takeover to who ordered it.
fn outcome(opened: &Result<Engine, StartError>) -> Result<String, (String, String)> {
    match opened {
        Ok(engine) => Ok(engine.taken_over.clone()),
        Err(StartError::Failed(message)) => Err((message.clone(), String::new())),
        Err(StartError::Refused { message, hint, .. } | StartError::Unavailable { why: message, hint }) => {
            Err((message.clone(), hint.clone()))
        }
    }
}
